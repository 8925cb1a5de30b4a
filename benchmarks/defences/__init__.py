"""Broken defences from the literature, and sound models, to measure the evaluation itself.

``catalogue.py`` lists them, ``truth.py`` attacks them adaptively, ``defence_zoo.py`` beside this
package compares the evaluation's scores with that.
"""
