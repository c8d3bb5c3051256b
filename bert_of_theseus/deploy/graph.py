"""An encoder and its head as an ONNX graph, in ONNX Runtime's fused operations.

The graph is made from the canonical form (`checkpoints.Description`), whatever the family: BERT,
RoBERTa, XLM-RoBERTa, DistilBERT, ELECTRA and ALBERT here, DeBERTa-v3 in `deberta`.
"""

from __future__ import annotations

import numpy as np

from ..checkpoints.describe import Description
from .base import GRAPH_NAME

OPSET, IR_VERSION = 17, 9  # of 2022, which current ONNX Runtimes all read
_FUSED = "com.microsoft"  # the domain of ONNX Runtime's own operations
PARTS = ("query", "key", "value")
_MOST_BYTES = 2**31 - 2**20  # of a protobuf message, with room for the nodes


class Graph:
    """Nodes and constants. Each method adds to them and returns the name of a value."""

    def __init__(self):
        self.nodes, self.constants = [], {}

    def constant(self, name, value):
        if name not in self.constants:
            self.constants[name] = value
        return name

    def fused(self, op, *inputs, **options):
        """One of ONNX Runtime's own operations."""
        return self.node(op, *inputs, domain=_FUSED, **options)

    def node(self, op, *inputs, outputs=1, **options):
        from onnx import helper

        name = f"{op}_{len(self.nodes)}"
        names = [f"{name}_output_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name, **options))
        return names[0]

    def as_model(self, inputs: list[str], output: str, shape: list):
        """The model from `inputs`, ids of shape `(batch_size, sequence_length)`, to `output`."""
        from onnx import TensorProto, helper, numpy_helper

        size = sum(value.nbytes for value in self.constants.values())
        if size > _MOST_BYTES:
            raise ValueError(
                f"The model's weights take {size / 1e9:.1f} GB. An .onnx file holds at most 2.1 GB."
            )
        graph = helper.make_graph(
            self.nodes,
            GRAPH_NAME,
            [
                helper.make_tensor_value_info(
                    name, TensorProto.INT64, ["batch_size", "sequence_length"]
                )
                for name in inputs
            ],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            [
                numpy_helper.from_array(np.asarray(value, order="C"), name)
                for name, value in self.constants.items()
            ],
        )
        return helper.make_model(
            graph,
            producer_name="bert_of_theseus",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(_FUSED, 1)],
        )


class EncoderGraph(Graph):
    """BERT and its relatives at inference."""

    def __init__(self, description: Description):
        super().__init__()
        self.config, self.tensors = description.config, description.tensors
        self.has_head = description.head is not None
        self.dense_layers = description.dense_layers
        self.first_token = description.first_token

    def model(self):
        output = "last_hidden_state"
        if self.has_head:
            output = "logits"
        elif self.first_token:
            output = "pooler_output"
        self.nodes.append(self._named(self.output(), output))
        size = self.config["hidden_size"]
        if self.dense_layers:
            size = self.dense_layers[-1].bias.shape[0]
        shape = ["batch_size", *([] if self.first_token else ["sequence_length"]), size]
        names = ["input_ids", "attention_mask"]
        return self.as_model(names + ["token_type_ids"] * self.has_segments, output, shape)

    @staticmethod
    def _named(value, name):
        from onnx import helper

        return helper.make_node("Identity", [value], [name], name)

    @property
    def has_segments(self) -> bool:
        """Whether the model tells the two texts of a pair apart.

        RoBERTa has one segment, which it adds everywhere.
        """
        return self.config["type_vocab_size"] > bool(self.config.get("position_offset"))

    def output(self):
        """The encoder and the head."""
        self.mask = self.integers("attention_mask")
        x = self.embeddings()
        names = self.layers()
        for number, name in enumerate(names, 1):
            x = self.layer(x, name, self.first_token and number == len(names))
        if self.first_token:
            x = self.node("Gather", x, self.constant("only", np.array(0)), axis=1)
        for index, dense in enumerate(self.dense_layers):
            x = self.node("MatMul", x, self.constant(f"head_{index}/kernel", dense.kernel))
            bias = self.constant(f"head_{index}/bias", dense.bias)
            last = self.has_head and dense is self.dense_layers[-1]
            x = self.activate(x, bias, "linear" if last else dense.activation)
        return x

    def layers(self) -> list[str]:
        """The name of each layer's tensors, in the order of the layers; ALBERT repeats some."""
        depth = self.config["num_hidden_layers"]
        if self.config["model_type"] != "albert":
            return [f"bert/encoder/layer_{index}" for index in range(depth)]
        groups, inner = self.config["num_hidden_groups"], self.config["inner_group_num"]
        return [
            f"bert/encoder/group_{index * groups // depth}/inner_{number}"
            for index in range(depth)
            for number in range(inner)
        ]

    def embeddings(self):
        if self.config.get("position_offset"):
            x = self.offset_embeddings()
        else:
            x = self.fused(
                "EmbedLayerNormalization",
                self.integers("input_ids"),
                self.integers("token_type_ids") if self.has_segments else "",
                self.table("word"),
                self.table("position"),
                self.table("token_type") if self.has_segments else "",
                *self.norm("bert/embeddings"),
                outputs=2,
                epsilon=self.config["layer_norm_eps"],
            )
        for name in ("embeddings/projection", "encoder/embedding_hidden_mapping_in"):
            if f"bert/{name}/kernel" in self.tensors:
                x = self.kernel(x, f"bert/{name}")
                x = self.node("Add", x, self.weight(f"bert/{name}/bias"))
        return x

    def offset_embeddings(self):
        """RoBERTa's: positions count the tokens but for padding, which has the row before them."""
        pad = self.constant("padding", np.array(self.config["position_offset"] - 1))
        is_text = self.node("Not", self.node("Equal", "input_ids", pad))
        is_text = self.node("Cast", is_text, to=7)  # int64
        count = self.node("CumSum", is_text, self.constant("length_axis", np.array(1)))
        places = self.node("Add", self.node("Mul", count, is_text), pad)
        table = self.tensors["bert/embeddings/position_embeddings"]
        segments = self.tensors.get("bert/embeddings/token_type_embeddings")
        if segments is not None and not self.has_segments:
            table = table + segments[0]
        table = self.constant("bert/embeddings/position_embeddings", table)
        words = self.node("Gather", self.table("word"), "input_ids")
        if self.has_segments:
            added = self.node("Gather", self.table("token_type"), "token_type_ids")
            words = self.node("Add", words, added)
        positions = self.node("Gather", table, places)
        return self.normalize(self.node("Add", words, positions), "bert/embeddings")

    def layer(self, x, name, first_token):
        """A layer of the encoder, for all tokens or for the first one alone."""
        y = x
        if first_token:
            y = self.node("Gather", x, self.constant("first", np.array([0])), axis=1)
        mixed = self.attention(x, y, f"{name}/attention/self")
        mixed = self.kernel(mixed, f"{name}/attention/output/dense")
        y = self.add_and_norm(mixed, y, f"{name}/attention/output")
        z = self.kernel(y, f"{name}/intermediate/dense")
        z = self.activate(
            z, self.weight(f"{name}/intermediate/dense/bias"), self.config["hidden_act"]
        )
        return self.add_and_norm(self.kernel(z, f"{name}/output/dense"), y, f"{name}/output")

    def attention(self, x, y, name):
        """What the tokens in `y` take from those in `x`."""
        options = {"num_heads": self.config["num_attention_heads"], "mask_filter_value": -1e9}
        biases = self.side_by_side(name, "bias")
        if y == x:
            kernels = self.side_by_side(name, "kernel")
            return self.fused("Attention", x, kernels, biases, self.mask, **options)
        q, k, v = (self.kernel(z, f"{name}/{part}") for z, part in zip((y, x, x), PARTS))
        return self.fused("MultiHeadAttention", q, k, v, biases, self.mask, **options)

    def add_and_norm(self, x, skip, name):
        # The bias first: int8 products take it in.
        x = self.node("Add", x, self.weight(f"{name}/dense/bias"))
        return self.normalize(self.node("Add", x, skip), name)

    def normalize(self, x, name):
        epsilon = self.config["layer_norm_eps"]
        return self.node("LayerNormalization", x, *self.norm(name), axis=-1, epsilon=epsilon)

    def activate(self, x, bias, activation):
        if activation in ("gelu", "gelu_tanh"):
            return self.fused({"gelu": "BiasGelu"}.get(activation, "FastGelu"), x, bias)
        x = self.node("Add", x, bias)
        if activation == "linear":
            return x
        if activation == "swish":
            return self.node("Mul", x, self.node("Sigmoid", x))
        return self.node({"relu": "Relu", "tanh": "Tanh"}[activation], x)

    # Constants.

    def integers(self, name):
        """An input as ONNX Runtime's own operations take it."""
        return self.node("Cast", name, to=6)  # int32

    def weight(self, name):
        return self.constant(name, self.tensors[name])

    def table(self, name):
        return self.weight(f"bert/embeddings/{name}_embeddings")

    def norm(self, name):
        return [self.weight(f"{name}/LayerNorm/{part}") for part in ("gamma", "beta")]

    def kernel(self, x, name):
        return self.node("MatMul", x, self.weight(f"{name}/kernel"))

    def side_by_side(self, name, part):
        """The kernels or biases of query, key and value, concatenated."""
        values = [self.tensors[f"{name}/{layer}/{part}"] for layer in PARTS]
        return self.constant(f"{name}/{part}", np.concatenate(values, -1))
