"""Dynamic loss scaling, for gradients in half precision."""

from __future__ import annotations

import numpy as np

from xent import _arguments as arguments
from xent import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from xent._typing import Any, NDArray

__all__ = ["LossScaler"]

# The scales there are: positive normal numbers of float32.
LEAST, MOST = 2.0**-126, float(np.finfo(np.float32).max)
# So many elements that are not contiguous are copied, divided and copied back at once.
ELEMENTS = 1 << 16
KEYS = ("scale", "growth_factor", "backoff_factor", "growth_interval", "growth_tracker")


def _scale(value: Any, name: str) -> float:
    expected = "a number in [2**-126, the largest finite float32]"
    found: float = arguments.number(value, name, LEAST, MOST, expected)
    return found


def _growth_factor(value: Any) -> float:
    expected = "a finite number > 1"
    found: float = arguments.number(value, "growth_factor", np.nextafter(1, 2), MOST, expected)
    return found


def _backoff_factor(value: Any) -> float:
    expected = "a number in (0, 1)"
    found: float = arguments.number(value, "backoff_factor", LEAST, np.nextafter(1, 0), expected)
    return found


def _gradient(value: Any, name: str) -> NDArray[Any]:
    """Return an array that can be divided in place."""
    if type(value).__module__.partition(".")[0] == "torch":
        value = arguments.of_tensor(value, name)
    shape, dtype = getattr(value, "shape", ()), getattr(value, "dtype", None)
    found: NDArray[Any] = arguments.buffer(value, name, shape, dtype)
    if arguments.float_name(found) not in ("float16", "bfloat16", "float32", "float64"):
        raise TypeError(
            f"{name}: dtype {found.dtype} is not accepted; expected float16, bfloat16, float32 or float64"
        )
    return found


def _refuse_overlap(grads: list[NDArray[Any]]) -> None:
    """Raise for two arrays with memory in common: it would be divided twice."""
    bounds = [np.lib.array_utils.byte_bounds(grad) for grad in grads]
    order = sorted((i for i, grad in enumerate(grads) if grad.size), key=lambda i: bounds[i])
    before: list[int] = []
    for i in order:
        before = [j for j in before if bounds[j][1] > bounds[i][0]]
        for j in before:
            if arguments.overlap(grads[i], grads[j]):
                raise ValueError(
                    f"grads[{max(i, j)}]: the array overlaps the memory of grads[{min(i, j)}]"
                )
        before.append(i)


def _pieces(grad: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Give contiguous arrays in which what is written ends up: the array itself, or copies of its parts, one by one."""
    name = arguments.float_name(grad)
    view = grad.view(np.uint16) if name == "bfloat16" else grad
    if view.flags.f_contiguous:
        view = view.T
    if view.flags.c_contiguous and view.flags.aligned and view.dtype.isnative:
        yield view.view(np.ndarray)
        return
    buffered: Any = np.nditer(  # type: ignore[call-overload]
        view,
        ("external_loop", "buffered", "zerosize_ok"),
        [["readwrite", "contig", "aligned", "nbo"]],
        order="K",
        buffersize=ELEMENTS,
    )
    with buffered:
        yield from buffered


class LossScaler:
    r"""Scale of a loss that keeps gradients in half precision within their range.

    A loss times the scale has gradients times the scale. `unscale` divides them again, and `update` lowers the scale after a
    step whose gradients were not all finite, which is to be skipped, and raises it after many that were.

    Parameters
    ----------
    init_scale : float, default 65536.0
        The first scale, a positive normal number of float32.
    growth_factor : float, default 2.0
        What the scale is multiplied by after `growth_interval` finite steps in a row, above 1.
    backoff_factor : float, default 0.5
        What the scale is multiplied by after a step that was not finite, in (0, 1).
    growth_interval : int, default 2000
        Finite steps in a row after which the scale grows.

    Attributes
    ----------
    scale : float
        What the next loss, or its upstream gradient, is to be multiplied by.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Notes
    -----
    .. math:: s \leftarrow \begin{cases} b\, s & \text{a gradient was not finite} \\
        g\, s & \text{else, each } n \text{ updates in a row} \end{cases}

    The scale stays where it is when it would leave the positive normal numbers of float32. Factors that are powers of two,
    as the defaults are, make divisions exact but for subnormal numbers.

    References
    ----------
    P. Micikevicius et al., "Mixed precision training", ICLR 2018, arXiv:1710.03740; PyTorch, ``torch.amp.GradScaler``.

    Examples
    --------
    >>> import numpy as np, xent
    >>> scaler = xent.LossScaler(init_scale=1024.0)
    >>> logits, weight = np.array([[2.0, -1.0]], np.float16), np.ones(2, np.float16)
    >>> loss, grad = xent.cross_entropy(logits, [0], return_grad=True, grad_output=scaler.scale)
    >>> if scaler.unscale(grad):
    ...     weight -= grad[0]
    >>> grad.round(4)
    array([[-0.0474,  0.0474]], dtype=float16)
    >>> scaler.update()
    >>> scaler.scale
    1024.0
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ) -> None:
        self.scale = _scale(init_scale, "init_scale")
        self._growth_factor = _growth_factor(growth_factor)
        self._backoff_factor = _backoff_factor(backoff_factor)
        self._growth_interval = arguments.count(growth_interval, "growth_interval", 1)
        self._growth_tracker = 0
        # None: nothing has been unscaled since the last update.
        self._finite: bool | None = None

    def __repr__(self) -> str:
        """Show what makes another one like it."""
        return (
            f"LossScaler(init_scale={self.scale!r}, growth_factor={self._growth_factor!r}, "
            f"backoff_factor={self._backoff_factor!r}, growth_interval={self._growth_interval!r})"
        )

    def unscale(self, *grads: NDArray[Any]) -> bool:
        """Divide gradients by the scale, in place, and say whether they are finite.

        Parameters
        ----------
        *grads : numpy.ndarray
            Arrays of float16, bfloat16, float32 or float64, of any strides, that share no memory. Each quotient is rounded
            once.

        Returns
        -------
        finite : bool
            Whether every element of all of them was finite. Several calls before one `update` count together there.

        Raises
        ------
        TypeError, ValueError
            An array that cannot be divided in place; none has been changed then.
        """
        scale = _scale(self.scale, "scale")
        if not grads:
            raise ValueError("grads: expected at least one array")
        arrays = [_gradient(grad, f"grads[{i}]") for i, grad in enumerate(grads)]
        _refuse_overlap(arrays)
        finite = True
        for grad in arrays:
            for piece in _pieces(grad):
                finite &= _core.unscale(piece, scale, arguments.float_name(grad))
        self._finite = finite and self._finite is not False
        return finite

    def update(self) -> None:
        """Set the scale of the next step, by what `unscale` has found since the last update.

        Raises
        ------
        ValueError
            Nothing has been unscaled since the last update.
        """
        if self._finite is None:
            raise ValueError("update: nothing has been unscaled since the last update")
        factor = 1.0
        if not self._finite:
            factor, self._growth_tracker = self._backoff_factor, 0
        else:
            self._growth_tracker += 1
            if self._growth_tracker >= self._growth_interval:
                factor, self._growth_tracker = self._growth_factor, 0
        scale = self.scale * factor
        if LEAST <= scale <= MOST:
            self.scale = scale
        self._finite = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs, as numbers.

        Returns
        -------
        state : dict
            ``scale``, ``growth_factor``, ``backoff_factor``, ``growth_interval`` and ``growth_tracker``, how many finite
            steps since the scale last changed.
        """
        return {key: self.scale if key == "scale" else getattr(self, f"_{key}") for key in KEYS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state that `state_dict` has returned, here or elsewhere.

        Parameters
        ----------
        state : dict
            Its keys are those of `state_dict`; what was unscaled before is forgotten.

        Raises
        ------
        TypeError, ValueError
            A key is missing or unknown, or a value is not accepted; nothing has been changed then.
        """
        try:
            given = dict(state)
        except (TypeError, ValueError):
            raise TypeError(f"state: expected a dict, got {arguments.described(state)}") from None
        if set(given) != set(KEYS):
            raise ValueError(
                f"state: expected the keys {', '.join(KEYS)}, got {', '.join(map(str, given))}"
            )
        scale = _scale(given["scale"], "scale")
        growth, backoff = (
            _growth_factor(given["growth_factor"]),
            _backoff_factor(given["backoff_factor"]),
        )
        interval = arguments.count(given["growth_interval"], "growth_interval", 1)
        tracker = arguments.count(given["growth_tracker"], "growth_tracker", 0)
        if tracker >= interval:
            raise ValueError(
                f"growth_tracker: expected less than growth_interval, {interval}, got {tracker}"
            )
        self.scale, self._growth_factor, self._backoff_factor = scale, growth, backoff
        self._growth_interval, self._growth_tracker, self._finite = interval, tracker, None
