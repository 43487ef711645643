"""Windows for spectra, as torch.signal.windows."""

from fanal.core.ops import surface as _surface

globals().update(_surface.FUNCTIONS["signal.windows"])
