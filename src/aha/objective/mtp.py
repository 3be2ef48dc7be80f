"""The loss of multi-token prediction (DeepSeek-V3, 2412.19437, equations 24 and 25) on packed rows.

Axes: ``B`` rows, ``T`` tokens. Of ``num_ahead`` modules, module k predicts at place i the token i + k + 1; its loss is
the cross entropy there, summed over the places and divided by the number of all places, as the body's is. The whole is
``weight / num_ahead`` times the sum over the modules.
"""

from __future__ import annotations

from torch import Tensor

FIRST_WEIGHT, LAST_WEIGHT = 0.3, 0.1
FIRST_SHARE = 10 / 14.8  # trillions of tokens (section 4.2)


def mtp_weight(done: float) -> float:
    """What the loss counts when the share ``done`` of the training is behind: 0.3, and 0.1 in the last third."""
    return FIRST_WEIGHT if done < FIRST_SHARE else LAST_WEIGHT


def targets_ahead(
    targets_BT: Tensor, weights_BT: Tensor, segments_BT: Tensor, *, ahead: int
) -> tuple[Tensor, Tensor]:
    """The targets ``[B, T]`` of module ``ahead`` and what each counts: 0 where its document has ended before.

    ``targets_BT`` is what follows each place in its document, ``weights_BT`` what it counts; ``segments_BT`` numbers a
    row's documents, with other numbers side by side.
    """
    later_BT = targets_BT.roll(-ahead, 1)
    same_BT = segments_BT.roll(-ahead, 1) == segments_BT
    same_BT[:, -ahead:] = False  # rolled in from the row's beginning
    return later_BT, weights_BT.roll(-ahead, 1) * same_BT
