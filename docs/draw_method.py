"""Draws the picture of the method at the top of the README: python docs/draw_method.py"""

import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

PREDECESSOR, SUCCESSOR, PLAIN, INK = "#c8d6e5", "#ffd9a0", "#eeeeee", "#333333"
LEFT, RIGHT, MIDDLE = 0.9, 4.3, 2.6  # centres of the two branches and of what they share
OUT = 7.6  # centre of the standalone successor


def box(ax, x, y, width, height, text, colour):
    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0.02,rounding_size=0.08",
            facecolor=colour,
            edgecolor=INK,
            linewidth=0.8,
        )
    )
    ax.text(x, y, text, ha="center", va="center", fontsize=9, color=INK)


def arrow(ax, start, end, dashed=False):
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=9,
            linewidth=0.9,
            color=INK,
            linestyle=(0, (3, 2)) if dashed else "-",
            shrinkA=0,
            shrinkB=0,
        )
    )


def draw(path: pathlib.Path) -> None:
    """Draws two modules of 6 layers to 3, and the successor that comes out, into `path`."""
    fig, ax = plt.subplots(figsize=(8.6, 5.6))
    box(ax, MIDDLE, 0, 2.2, 0.45, "embeddings (frozen)", PREDECESSOR)
    y = 0.0
    for module in range(2):
        first = 2 * module
        base = y + 0.23
        low, high, gate = y + 0.95, y + 1.55, y + 2.25
        arrow(ax, (MIDDLE, base), (LEFT, low - 0.23))
        arrow(ax, (MIDDLE, base), (RIGHT, low + 0.07))
        box(ax, LEFT, low, 1.7, 0.42, f"layer {first}", PREDECESSOR)
        box(ax, LEFT, high, 1.7, 0.42, f"layer {first + 1}", PREDECESSOR)
        arrow(ax, (LEFT, low + 0.23), (LEFT, high - 0.23))
        box(ax, RIGHT, (low + high) / 2, 1.7, 0.42, f"layer {module}", SUCCESSOR)
        box(ax, MIDDLE, gate, 2.5, 0.42, "one of the two, at random", PLAIN)
        arrow(ax, (LEFT, high + 0.23), (MIDDLE - 0.7, gate - 0.23), dashed=True)
        arrow(ax, (RIGHT, (low + high) / 2 + 0.23), (MIDDLE + 0.7, gate - 0.23), dashed=True)
        y = gate
    ax.text(MIDDLE, y + 0.5, "⋮  further modules", ha="center", va="center", fontsize=9, color=INK)
    box(ax, MIDDLE, y + 1.1, 2.2, 0.45, "head (frozen)", PREDECESSOR)
    ax.text(LEFT, y + 1.75, "predecessor\nfrozen", ha="center", fontsize=10, color="#4a6f94")
    ax.text(RIGHT, y + 1.75, "successor\ntrained", ha="center", fontsize=10, color="#b8720a")
    ax.text(OUT, y + 1.75, "at inference, and what\nis kept", ha="center", fontsize=10, color=INK)

    names = ["embeddings", "layer 0", "layer 1", "⋮", "head"]
    heights = [0, 1.25, 3.5, y + 0.5, y + 1.1]
    for name, height in zip(names, heights):
        if name == "⋮":
            ax.text(OUT, height, name, ha="center", va="center", fontsize=9, color=INK)
        else:
            box(ax, OUT, height, 1.7, 0.42, name, SUCCESSOR)
    for a, b in zip(heights[:2], heights[1:3]):
        arrow(ax, (OUT, a + 0.23), (OUT, b - 0.23))
    arrow(ax, (OUT, heights[2] + 0.23), (OUT, heights[3] - 0.2))
    arrow(ax, (OUT, heights[3] + 0.15), (OUT, heights[4] - 0.23))
    ax.plot([6.1, 6.1], [-0.3, y + 2.3], color="#bbbbbb", linewidth=0.8)
    ax.set_xlim(-0.3, 8.7)
    ax.set_ylim(-0.4, y + 2.5)
    ax.axis("off")
    # Text as text and no date: the file stays small and the same from run to run.
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "method"}):
        fig.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(fig)


if __name__ == "__main__":
    draw(pathlib.Path(__file__).with_name("method.svg"))
