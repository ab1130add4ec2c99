"""A call as a function of the host: what `_ffi.c` does of it, where JAX has no foreign function interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xent import _arguments
from xent._pool import empty_array
from xent._request import Request

if TYPE_CHECKING:
    from xent.jax._call import Call

Array = np.ndarray[Any, np.dtype[Any]]


class HostCall(NamedTuple):
    """A function for `jax.pure_callback`; equal to others of its fields, so that JAX compiles a program once."""

    call: Call
    rank: int  # of the logits without the axes of vmap
    arguments: tuple[str, ...]  # the fields of xent_call that the arrays are,
    results: tuple[
        tuple[str, tuple[int, ...], Any], ...
    ]  # and those to compute, with shape and dtype

    def __call__(self, *arrays: Any) -> list[Array]:
        """Return the results of each element of the axes of vmap, which come first and may be of size 1."""
        given = dict(zip(self.arguments, map(np.asarray, arrays), strict=True))
        mapped = given["logits"].ndim - self.rank
        batch = np.broadcast_shapes(*(a.shape[:mapped] for a in given.values()))
        given = {name: np.broadcast_to(a, batch + a.shape[mapped:]) for name, a in given.items()}
        results = {
            name: empty_array(batch + shape, np.dtype(dtype)) for name, shape, dtype in self.results
        }
        self.validate(given, mapped)
        for element in np.ndindex(batch):
            at = (*element, ...)
            request = self.request({name: a[at] for name, a in given.items()})
            found = {name: a[at] for name, a in results.items()}
            for name in found.keys() - {"result"}:
                setattr(request, name, found[name])
            request.run()
            if "result" in found:
                found["result"][...] = request.result
        return list(results.values())

    def request(self, given: dict[str, Array], mapped: int = 0) -> Request:
        """Return the request of some arrays; axes of vmap are axes of its loss."""
        call = self.call
        axis = call.axis + mapped if call.axis >= 0 else -1
        x, precision = _arguments.logits(given["logits"], call.parameters[0])
        request = Request(call.operation, x, precision, axis)
        request.options = dict(call.options)
        request.ignore_index = call.ignore_index
        for name in given.keys() - {"logits", "soft"}:
            setattr(request, name, given[name])
        if "soft" in given:
            # A teacher's bfloat16 is read as its bits.
            request.soft = given["soft"].view(request.soft_dtype)
        return request

    def validate(self, given: dict[str, Array], mapped: int) -> None:
        """Refuse class indices and probabilities by their positions among all that vmap maps."""
        read = given.keys() & {"logits", "index", "soft", "sample_weight"}
        self.request({name: given[name] for name in read}, mapped).validate()
