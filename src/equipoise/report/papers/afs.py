"""Tables and figures of the AFS paper (arXiv:2103.13124), except its schematic drawing."""

from dataclasses import replace

from equipoise.report.papers.entry import (
    AS_PRINTED,
    MEASURED,
    SMALL,
    WORST,
    Column,
    Entry,
    Figure,
    Part,
    Row,
    Table,
)

_AFS = "AFS, arXiv:2103.13124, "
_CLEAN = Column(head="Clean", published="0", under=WORST, at=0)
_PGD = tuple(Column(head=f"PGD-{n}", published=f"PGD-{n}", under=f"pgd-{n}") for n in (10, 20))
_WORST = Column(head="Worst case", published=None, under=WORST)
_BUDGETS = tuple(Row(label=f"#{k}", recipe=f"pgd_at_{{}}_budget_{k}") for k in range(10))
_AFS_ROW = Row(label="AFS", recipe="afs_{}")
_AFS_OF_FIVE = (
    Row(label="AFS", recipe="afs_{}_mask_101010101", scales=("paper",)),
    replace(_AFS_ROW, scales=SMALL),
)
"""Stack of the networks that Fig. 6 shows; at smaller scales the default one."""
_ALPHAS = tuple(
    Row(label=f"α = {alpha}", recipe=f"afs_{{}}_alpha_{alpha.replace('.', '_')}")
    for alpha in ("0", "0.2", "0.4", "0.6", "0.8", "1")
)
_ALPHA_HALF = Row(label="α = 0.5", recipe="afs_{}_alpha_0_5")
_MASKS = tuple(
    Row(label=mask, recipe=f"afs_{{}}_mask_{mask}", scales=scales)
    for scales, masks in (
        (("paper",), ("100000001", "100010001", "101010101", "111111111")),
        (SMALL, ("001", "011", "101", "111")),
    )
    for mask in masks
)
_METHODS = (
    Row(label="FAT", recipe="fat_trades_{}_afs"),
    Row(label="TLA", recipe="tla_{}"),
    Row(label="TRADES", recipe="trades_{}_afs"),
    Row(label="LBGAT+TRADES", recipe="lbgat_{}"),
    Row(label="AVM", recipe="avm_{}"),
    Row(label="PGD-AT", recipe="pgd_at_{}_afs"),
    _AFS_ROW,
)
_TRADE_OFF_COLUMNS = (
    _CLEAN,
    Column(head="PGD", published="PGD", under="pgd-20"),
    Column(head="AA", published="8/255", under=WORST),
    Column(head="Trade-off", published="trade_off", under="trade-off"),
)
_AA_NOTE = (
    "AA, measured: the worst case over all attacks, which include AutoAttack at paper scale only, "
    "and those on single members; so it has no line as printed. "
    "Every row is trained from scratch with one architecture; the paper's rows come from several "
    "papers and architectures."
)


def _table(
    data: str,
    source: str,
    rows: tuple[Row, ...],
    columns: tuple[Column, ...] = (_CLEAN, *_PGD, _WORST),
) -> Table:
    part = Part(data=data, source=_AFS + source, rows=rows)
    return Table(parts=(part,), columns=columns, readings=(AS_PRINTED, MEASURED))


AFS_ENTRIES = (
    Entry(
        name="afs-fig-1",
        paper="AFS Fig. 1",
        title="Clean accuracy against accuracy under PGD",
        note="Every measured point is trained from scratch with one architecture. A vertical line "
        "leads from PGD to the worst case over all attacks. AVM is left out, as in the paper's "
        "caption.",
        content=Figure(
            part=Part(
                data="cifar10",
                source=_AFS + "Table IV",
                rows=tuple(row for row in _METHODS if row.label != "AVM"),
            ),
            drawn_by="line_figures.trade_off_scatter",
        ),
    ),
    Entry(
        name="afs-fig-3",
        paper="AFS Fig. 3",
        title="t-SNE of the features of a weakly and a strongly trained network, and of both",
        note="Clean test images. The silhouette score is computed for the true classes in the "
        "embedding; t-SNE preserves neighbourhoods, not distances.",
        content=Figure(
            part=Part(data="cifar10", rows=(_BUDGETS[1], _BUDGETS[8])),
            drawn_by="model_figures.embeddings",
            needs="embeddings",
        ),
    ),
    Entry(
        name="afs-fig-4a",
        paper="AFS Fig. 4(a)",
        title="Accuracy of AFS and of single networks against the strength",
        note="Worst case over all attacks, at the strengths of the recipes. The training budget of "
        "#k is k/8 of the strongest strength.",
        content=Figure(
            part=Part(
                data="cifar10",
                rows=(
                    *(_BUDGETS[k] for k in (2, 4, 6, 8)),
                    replace(_ALPHA_HALF, label="AFS, α = 0.5"),
                ),
            ),
            drawn_by="line_figures.accuracy_curves",
        ),
    ),
    Entry(
        name="afs-fig-4b",
        paper="AFS Fig. 4(b)",
        title="Importance ratio of each member of the stack, for each α",
        note="Members are labelled with their training budgets.",
        content=Figure(
            part=Part(data="cifar10", rows=_ALPHAS), drawn_by="line_figures.importance_by_alpha"
        ),
    ),
    Entry(
        name="afs-fig-5",
        paper="AFS Fig. 5",
        title="Histograms of the last layer's weights",
        note="Weights are divided by their standard deviation, so that shapes can be compared; the "
        "excess kurtosis measures how heavy the tails are (0 for a Gaussian).",
        content=Figure(
            part=Part(data="cifar10", rows=(_BUDGETS[1], _BUDGETS[8], _AFS_ROW)),
            drawn_by="model_figures.weight_histograms",
            needs="weights",
        ),
    ),
    Entry(
        name="afs-fig-6",
        paper="AFS Fig. 6",
        title="Gradient of the loss with respect to the image",
        note="Absolute value, normalised to [0, 1], log-transformed, as in the paper's caption. "
        "At paper scale the stack consists of the networks shown, as in print; elsewhere it is the "
        "default one. The loss is the cross-entropy of the true class.",
        content=Figure(
            part=Part(
                data="cifar10", rows=(*(_BUDGETS[k] for k in (0, 2, 4, 6, 8)), *_AFS_OF_FIVE)
            ),
            drawn_by="model_figures.gradient_images",
            needs="gradients",
        ),
    ),
    Entry(
        name="afs-table-1",
        paper="AFS Table I",
        title="Single networks trained at different budgets",
        note="The training budget of #k is k/8 of the strongest strength.",
        content=_table("cifar10", "Table I", _BUDGETS),
    ),
    Entry(
        name="afs-table-2",
        paper="AFS Table II",
        title="AFS for different α",
        note="The recipe sets the number of stacked networks.",
        content=_table("cifar10", "Table II", (*_ALPHAS[:3], _ALPHA_HALF, *_ALPHAS[3:])),
    ),
    Entry(
        name="afs-table-3",
        paper="AFS Table III",
        title="Choice of the stacked networks",
        note="The mask has a 1 for each network that is stacked, out of nine in the paper and "
        "three at smaller scales.",
        content=_table("cifar10", "Table III", _MASKS),
    ),
    Entry(
        name="afs-table-4",
        paper="AFS Table IV",
        title="AFS and other methods, CIFAR-10",
        note=_AA_NOTE + " Published FAT: clean and PGD are those of FAT for TRADES trained at "
        "16/255, which is what is measured here, at twice the strongest strength; AA is that of "
        "another model, whose clean accuracy is 84.52.",
        content=_table("cifar10", "Table IV", _METHODS, _TRADE_OFF_COLUMNS),
    ),
    Entry(
        name="afs-table-5",
        paper="AFS Table V",
        title="AFS and other methods, CIFAR-100",
        note=_AA_NOTE,
        content=_table("cifar100", "Table V", _METHODS[3:], _TRADE_OFF_COLUMNS),
    ),
    Entry(
        name="afs-table-6",
        paper="AFS Table VI",
        title="Ablations: random budgets, a large network, AFS",
        note="The large network is three times as wide, as in the paper.",
        content=_table(
            "cifar10",
            "Table VI",
            rows=(
                Row(label="Baseline", recipe="pgd_at_{}_afs"),
                Row(label="Rand. pert.", recipe="random_budget_{}"),
                Row(label="Large model", recipe="large_{}"),
                _AFS_ROW,
            ),
            columns=(
                Column(head="Para. (M)", published="parameters, M", under="parameters", digits=3),
                Column(
                    head="MAdds (G)", published="multiply-adds, G", under="multiply-adds", digits=3
                ),
                _CLEAN,
                _PGD[1],
                _WORST,
            ),
        ),
    ),
)
"""Entries in the paper's order."""
