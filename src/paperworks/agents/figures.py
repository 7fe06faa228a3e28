"""The figure of a claim as a picture that a client can show."""

from paperworks.evidence.views import ClaimView

_MOST = 2**20  # bytes of a picture that an answer carries
_DPI = 144


def figure_png(view: ClaimView) -> bytes | None:
    """Return the figure of a claim as PNG, drawn from its SVG where only that is kept; None where there is none."""
    if (png := view.figure(".png")) is not None:
        content = png.read_bytes()
    elif (svg := view.figure(".svg")) is not None:
        content = _drawn(svg.read_text(encoding="utf-8"))
    else:
        return None
    return content if len(content) <= _MOST else None


def _drawn(svg: str) -> bytes:
    import matplotlib as mpl
    import resvg_py

    fonts = [f"{mpl.get_data_path()}/fonts/ttf"]  # those that the figures were drawn with
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, font_dirs=fonts, skip_system_fonts=True, dpi=_DPI))
