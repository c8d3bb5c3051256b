"""DeBERTa-v3 as an ONNX graph: attention by content and by relative position.

A score is the sum of three products: content with content, content with the other token's position
(c2p), and position with content (p2c). Positions are distances, in buckets that widen with the
distance. Their keys and queries depend on the weights alone, so they are constants here. A text of
n tokens is multiplied with the 2n distances that occur in it, however many buckets there are.

References:
    He et al., DeBERTa (https://arxiv.org/abs/2006.03654) and DeBERTaV3
    (https://arxiv.org/abs/2111.09543).
"""

from __future__ import annotations

import numpy as np

from .graph import PARTS, EncoderGraph


class DebertaGraph(EncoderGraph):
    """DeBERTa at inference."""

    def output(self):
        config, tensors = self.config, self.tensors
        self.heads = config["num_attention_heads"]
        self.size = config["hidden_size"] // self.heads
        # As it is three products that are summed.
        self.scale = np.float32((3 * self.size) ** -0.5)
        table = tensors["bert/encoder/rel_embeddings"].astype("float64")
        table = table - table.mean(-1, keepdims=True)
        table /= np.sqrt((table**2).mean(-1, keepdims=True) + config["layer_norm_eps"])
        gamma, beta = (tensors[f"bert/encoder/LayerNorm/{part}"] for part in ("gamma", "beta"))
        self.positions = table * gamma + beta
        self.add_distances()
        return super().output()

    def add_distances(self):
        """The buckets of the distances that can occur in a text of the batch's length n.

        `falling` holds those of n, n - 1, ..., 1 - n, `rising` those of -n, ..., n - 1, and
        `of_first` those of 0, -1, ..., 1 - n.
        """
        from ..encoders.distances import distance_buckets

        most = self.config["max_position_embeddings"]
        span = self.config["position_buckets"]
        distances = np.arange(most, -most - 1, -1)
        buckets = np.sign(distances) * distance_buckets(span, most)[np.abs(distances)]
        buckets = np.clip(buckets + span, 0, 2 * span - 1)
        shape = self.node("Shape", "input_ids")
        self.length = self.node("Gather", shape, self.integers_of("length_axis", [1]))
        middle = self.integers_of("middle", [most])
        start = self.node("Sub", middle, self.length)
        end = self.node("Add", middle, self.length)
        falling = self.integers_of("buckets", buckets)
        rising = self.integers_of("buckets_rising", buckets[::-1])
        self.falling = self.node("Slice", falling, start, end)
        self.rising = self.node("Slice", rising, start, end)
        self.of_first = self.node("Slice", falling, middle, end)
        ends = self.integers_of("batch_and_heads", [0, 0]), self.integers_of("rest", [-1])
        self.row_shape = self.node("Concat", ends[0], self.length, ends[1], axis=0)

    def embeddings(self):
        x = self.node("Gather", self.table("word"), "input_ids")
        if self.has_segments:
            x = self.node("Add", x, self.node("Gather", self.table("token_type"), "token_type_ids"))
        epsilon = self.config["layer_norm_eps"]
        x = self.node("LayerNormalization", x, *self.norm("bert/embeddings"), epsilon=epsilon)
        shown = self.node("Cast", "attention_mask", to=1)  # float32
        return self.node("Mul", x, self.node("Unsqueeze", shown, self.integers_of("last", [-1])))

    def attention(self, x, y, name):
        query, key, value = (
            self.node("Add", self.kernel(z, f"{name}/{part}"), self.weight(f"{name}/{part}/bias"))
            for z, part in zip((y, x, x), PARTS)
        )
        add_positions = self.bias if y == x else self.bias_of_first
        return self.fused(
            "MultiHeadAttention",
            *(query, key, value, "", self.mask),
            add_positions(self.split(query), self.split(key), name),
            num_heads=self.heads,
            scale=float(self.scale),
            mask_filter_value=-1e9,
        )

    def bias(self, query, key, name):
        """What positions add to the scores, `(batch_size, heads, n, n)`.

        The product of query i or key i has the distances of its row from column n - i on.
        """
        c2p = self.shifted(self.times(query, self.rows(f"{name}/key", self.falling)))
        p2c = self.shifted(self.times(key, self.rows(f"{name}/query", self.rising)))
        return self.node("Add", c2p, self.node("Transpose", p2c, perm=[0, 1, 3, 2]))

    def bias_of_first(self, query, key, name):
        """The same for the first token's query alone, `(batch_size, heads, 1, n)`."""
        c2p = self.times(query, self.rows(f"{name}/key", self.of_first))
        p2c = self.node("Mul", key, self.rows(f"{name}/query", self.of_first))
        p2c = self.node("ReduceSum", p2c, self.integers_of("last", [-1]), keepdims=0)
        return self.node("Add", c2p, self.node("Unsqueeze", p2c, self.integers_of("rows", [2])))

    def rows(self, name, buckets):
        """Keys or queries of positions, `(heads, len(buckets), size)`, scaled as scores are."""
        kernel, bias = (self.tensors[f"{name}/{part}"] for part in ("kernel", "bias"))
        table = (self.positions @ kernel + bias) * self.scale
        table = table.reshape(-1, self.heads, self.size).transpose(1, 0, 2).astype("float32")
        return self.node("Gather", self.constant(f"{name}/positions", table), buckets, axis=1)

    def times(self, x, table):
        return self.fused("FusedMatMul", x, table, transB=1)

    def split(self, x):
        """From `(batch_size, n, hidden_size)` to `(batch_size, heads, n, size)`."""
        x = self.node("Reshape", x, self.integers_of("split", [0, 0, self.heads, self.size]))
        return self.node("Transpose", x, perm=[0, 2, 1, 3])

    def shifted(self, x):
        """From `(..., n, 2n)` to `(..., n, n)`: of row i, the columns from n - i on.

        Once the first n numbers are left out, rows of 2n - 1 begin one column earlier each.
        """
        x = self.node("Reshape", x, self.integers_of("flat", [0, 0, -1]))
        axis = self.integers_of("rows", [2])
        x = self.node("Slice", x, self.length, self.integers_of("end", [2**62]), axis)
        x = self.node("Reshape", x, self.row_shape)
        start, axis = self.integers_of("start", [0]), self.integers_of("columns", [3])
        return self.node("Slice", x, start, self.length, axis)

    def integers_of(self, name, values):
        return self.constant(name, np.array(values, "int64"))
