"""The extension module, written in Rust. Private: `hayase` has the public names."""

__version__: str

class Loop: ...

def build_info() -> dict[str, str]: ...
