"""Plots of a report as SVG files. Owns their look; must not know what they show.

The same plot gives the same bytes: no date, and ids from a fixed salt.
"""

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

from simulation.report import Plot

SIZE_INCHES = (6.4, 3.6)


def draw(plot: Plot, folder: Path) -> Path:
    """Draw one plot into a folder and return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{plot.name}.svg"
    with mpl.rc_context({"svg.hashsalt": "shoal", "svg.fonttype": "none"}):
        figure, axes = plt.subplots(figsize=SIZE_INCHES, layout="constrained")
        for curve in plot.curves:
            x, y = zip(*curve.points, strict=True)
            marker = "o" if len(x) <= 12 else ""
            axes.plot(x, y, label=curve.name, marker=marker, markersize=4)
        axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y)
        if plot.is_log_x:
            axes.set_xscale("log")
        if plot.is_log_y:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return path
