"""Built-in methods, one file each, and the door for a user's own: `@methods.register("mine")`."""

from unlearn.registry import methods as _registry

get = _registry.get
names = _registry.names
register = _registry.register

__all__ = ["get", "names", "register"]
