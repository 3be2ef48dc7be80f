"""Memory in which a step of decoding without compiled kernels computes, laid out once for a number of rows.

For few rows an operation of PyTorch takes longer to make its result and the views of it than to compute. Here it writes
where the last step's did (docs/speed.md, With PyTorch alone).

B rows, D width, W outputs of a panel, P panels, F feed-forward width, S cache columns, N query heads, K key/value
heads in groups of G = N / K queries, H head width.
"""

from __future__ import annotations

import math

import torch

from aha.model.config import ModelConfig
from aha.rollout.native.matrix import PANEL, part_of


class Workspace:
    """Float32 on a CPU, for layers of grouped-query attention and a dense feed-forward whose matrices are ``Panels``.

    Each result has the views that the operations after it read it by; layers follow one another in the same memory.
    """

    def __init__(self, config: ModelConfig, num_rows: int, num_columns: int) -> None:
        B, S, D, F = num_rows, num_columns, config.hidden_size, config.intermediate_size
        N, K, H = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        G, W = N // K, part_of(F)
        self.shape = (B, S)

        # The residual stream; a number more in each row makes the row's norm sqrt(sum(x**2) + D eps).
        self.padded_BX = torch.full((B, D + 1), math.sqrt(D * config.rms_norm_eps))
        self.x_BD = self.padded_BX[:, :D]
        self.size_B1 = torch.empty(B, 1)
        self.normed_BD = torch.empty(B, D)

        self.heads_PBW = torch.empty(G + 2, B, K * H)  # the first query of each group, the second ..., keys, values
        self.queries = self.heads_PBW[:G].view(G, B * K, H).transpose(0, 1)
        self.rotated = self.heads_PBW[: G + 1].view(G + 1, B, K, H)
        self.pairs = self.rotated.view(torch.complex64)
        self.entries = self.heads_PBW[G:].view(2, B, K, H).transpose(0, 1)
        self.scores = torch.empty(B * K, G, S)
        self.weights = torch.empty(B * K, G, S)
        self.read = torch.empty(B * K, G, H)
        self.normed_for_heads = self.normed_BD.expand(G + 2, B, D)

        self.gate_up_PBW = torch.empty(2 * F // W, B, W)
        self.gate, self.up = self.gate_up_PBW.chunk(2)
        self.made_BF = torch.empty(B, F)
        self.made_PBW = self.made_BF.view(B, F // W, W).transpose(0, 1)
        self.normed_for_gate_up = self.normed_BD.expand(len(self.gate_up_PBW), B, D)

        self.x_BPW = self.x_BD.view(B, D // PANEL, PANEL)
        self.added_PBW = torch.empty(D // PANEL, B, PANEL)
        self.added_BPW = self.added_PBW.transpose(0, 1)
        self.read_for_out = self.read.view(B, N * H).expand(D // PANEL, B, N * H)
        self.made_for_down = self.made_BF.expand(D // PANEL, B, F)
