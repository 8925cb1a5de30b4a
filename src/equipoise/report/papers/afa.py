"""Tables and figures of the AFA paper (arXiv:2105.15157), except its schematic drawings."""

from equipoise.report.papers.entry import (
    AS_PRINTED,
    SMALL,
    SURROGATE,
    WORST,
    Column,
    Entry,
    Figure,
    Part,
    Reading,
    Row,
    Table,
)

_AFA = "AFA, arXiv:2105.15157, "
_KEYS = ("0", "1/255", "2/255", "4/255", "8/255")

_PROFILE = (
    *(
        Column(head=f"ε = {key.removesuffix('/255')}", published=key, at=level)
        for level, key in enumerate(_KEYS)
    ),
    Column(head="Avg", published="mean", at=None),
)


def _with_afa(*methods: tuple[str, str]) -> tuple[Row, ...]:
    rows = [Row(label="Standard", recipe="standard_{}")]
    for label, recipe in methods:
        over = "afa_{}" if recipe == "pgd_at" else f"afa_{recipe}_{{}}"
        rows += [
            Row(label=label, recipe=f"{recipe}_{{}}"),
            Row(label=f"{label} + AFA", recipe=over),
        ]
    return tuple(rows)


_PGD_AT, _TRADES = ("PGD-AT", "pgd_at"), ("TRADES", "trades")
_IAT, _MART = ("IAT", "iat"), ("MART", "mart")
_FOUR = _with_afa(_PGD_AT, _TRADES, _IAT, _MART)

AFA_ENTRIES = (
    Entry(
        name="afa-fig-1",
        paper="AFA Fig. 1",
        title="Accuracy of several methods against the strength of the attack",
        note="OAT is shown at λ = 1; its published curve has no table. Measured curves are the "
        "worst case over all attacks.",
        content=Figure(
            part=Part(
                data="svhn",
                source=_AFA + "Table 1",
                stand_in="cifar10",
                rows=(
                    *(row for row in _FOUR if "IAT" not in row.label),
                    Row(label="OAT", recipe="oat_{}"),
                ),
            ),
            drawn_by="line_figures.accuracy_curves",
        ),
    ),
    Entry(
        name="afa-fig-3",
        paper="AFA Fig. 3",
        title="Mean and variance of each channel's features against the strength",
        note="Test images are attacked and evaluated through the fixed robust branch, so that only "
        "the images change with the strength. The mean is shown minus the clean mean, in units of "
        "the clean standard deviation; the variance is divided by the clean variance.",
        content=Figure(
            part=Part(data="cifar10", rows=(Row(label="AFA", recipe="afa_{}"),)),
            drawn_by="line_figures.channel_statistics",
            needs="channels",
        ),
    ),
    Entry(
        name="afa-fig-6",
        paper="AFA Fig. 6",
        title="Fusing weight W1 against the strength",
        note="Points: images attacked on a surrogate at random strengths, as in the paper, whose "
        "surrogate is a ResNet-34; means over eighths of the strengths. Lines: images attacked on "
        "the model itself, through the generator and through the fixed robust branch. The band is "
        "one standard deviation over images.",
        content=Figure(
            part=Part(
                data="cifar10",
                rows=(
                    Row(label="AFA", recipe="afa_{}"),
                    Row(label="AFA, plain stage II", recipe="afa_{}_plain", scales=SMALL),
                    Row(
                        label="AFA, guided generator",
                        recipe="afa_{}_led",
                        scales=("paper",),
                    ),
                    Row(label=SURROGATE, recipe="surrogate_resnet34_{}"),
                ),
            ),
            drawn_by="line_figures.fusing_weights",
            needs="transferred_weights",
            optional=True,
        ),
    ),
    Entry(
        name="afa-table-1",
        paper="AFA Table 1",
        title="Accuracy at five strengths, SVHN and CIFAR-10",
        note="The paper's attack is PGD; it does not give the number of steps. The worst case is "
        "over all attacks, including those on the weight generator.",
        content=Table(
            parts=(
                Part(data="svhn", source=_AFA + "Table 1", rows=_FOUR),
                Part(data="cifar10", source=_AFA + "Table 1", rows=_FOUR),
            ),
            columns=_PROFILE,
        ),
    ),
    Entry(
        name="afa-table-2",
        paper="AFA Table 2",
        title="Accuracy at five strengths, tiny-ImageNet",
        note="See Table 1 for the attacks.",
        content=Table(
            parts=(
                Part(
                    data="tiny-imagenet",
                    source=_AFA + "Table 2",
                    rows=_with_afa(_PGD_AT, _TRADES, _MART),
                ),
            ),
            columns=_PROFILE,
        ),
    ),
    Entry(
        name="afa-table-3",
        paper="AFA Table 3",
        title="Several attacks, the adaptive attack, and a black-box attack",
        note="As printed: PGD, FGSM and C&W at the strongest strength alone, PGD+Ada. at the one "
        "ratio and target that is worst for the whole set. Worst case: an image broken at a weaker "
        "strength stays broken, and PGD+Ada. is the worst case for each image over the margin, "
        "APGD, and both targets of the seven ratios. BB: images "
        "attacked on another network by PGD, each under the worse of two losses, not as printed: "
        "there is no such line; the paper uses a ResNet-50. In the "
        "paper's row Standard the black-box numbers repeat those of the attacks; they are shown as "
        "printed.",
        content=Table(
            parts=(Part(data="cifar10", source=_AFA + "Table 3", rows=_FOUR),),
            columns=(
                Column(head="std.", published="0", under=WORST, at=0),
                Column(head="PGD", published="PGD", under="pgd-20"),
                Column(head="FGSM", published="FGSM", under="fgsm"),
                Column(head="C&W", published="C&W", under="cw-30-kappa-50"),
                Column(head="PGD+Ada.", published="PGD+Ada.", under="adaptive"),
                *(
                    Column(
                        head=f"BB {key.removesuffix('/255')}",
                        published=f"black box {key}",
                        under="transfer",
                        at=level,
                    )
                    for level, key in enumerate(_KEYS)
                ),
                Column(head="BB Avg", published="black box mean", under="transfer", at=None),
            ),
            readings=(AS_PRINTED, Reading(name="measured, worst case", under=WORST)),
        ),
    ),
    Entry(
        name="afa-table-4",
        paper="AFA Table 4",
        title="The number of branches K",
        note="See Table 1 for the attacks.",
        content=Table(
            parts=(
                Part(
                    data="cifar10",
                    source=_AFA + "Table 4",
                    rows=tuple(
                        Row(label=f"PGD-AT + AFA, K = {k}", recipe=f"afa_{{}}_k{k}")
                        for k in (2, 3, 5, 9)
                    ),
                ),
            ),
            columns=_PROFILE,
        ),
    ),
)
"""Entries in the paper's order."""
