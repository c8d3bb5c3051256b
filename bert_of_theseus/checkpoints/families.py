"""The families of encoders that are read and written: configs, tensor names and heads in one form.

Each family has its own words for the same parts. Here they become those of BERT, the canonical
form, which the rest of the package knows: a config with BERT's keys, and tensors with the names of
Google's checkpoints (`bert/encoder/layer_0/output/dense/kernel`, kernels as
`(input_size, output_size)`).
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

SEQUENCE, TOKEN = "sequence", "token"  # the kinds of heads
# What the names of the classes with such a head end in.
HEAD_CLASSES = {SEQUENCE: "ForSequenceClassification", TOKEN: "ForTokenClassification"}

POOLER = ("bert/pooler/dense/kernel", "bert/pooler/dense/bias")
CLASSIFIER = ("classifier/kernel", "classifier/bias")

# The parts of a layer, and their names in `transformers`' BERT.
PARTS = (
    *(f"attention/self/{part}" for part in ("query", "key", "value")),
    *("attention/output/dense", "attention/output/LayerNorm"),
    *("intermediate/dense", "output/dense", "output/LayerNorm"),
)
_BERT_PARTS = tuple(part.replace("/", ".") for part in PARTS)
_DEBERTA_PARTS = tuple(re.sub("(query|key|value)$", r"\1_proj", part) for part in _BERT_PARTS)
_DISTILBERT_PARTS = (
    *("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
    *("sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm"),
)
_ALBERT_PARTS = (
    *("attention.query", "attention.key", "attention.value", "attention.dense"),
    *("attention.LayerNorm", "ffn", "ffn_output", "full_layer_layer_norm"),
)

_PROJECTION = "embeddings/projection"
_EMBEDDINGS = {
    f"embeddings/{part}": f"embeddings.{part}"
    for part in ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")
}
# Google's names of tensors that BERT's name rules do not cover. Both formats store the
# next-sentence kernel as (2, hidden_size), so it is not transposed and is not called a kernel.
_SPECIAL = {
    "cls.predictions.bias": "cls/predictions/output_bias",
    "cls.seq_relationship.weight": "cls/seq_relationship/output_weights",
    "cls.seq_relationship.bias": "cls/seq_relationship/output_bias",
}
_SPECIAL_BACK = {canonical: stored for stored, canonical in _SPECIAL.items()}


@dataclass(frozen=True)
class Family:
    """What `transformers` calls the parts of one family of encoders.

    Attributes:
        model_type: Its name in config.json.
        classes: What the names of its classes start with (`"Roberta"`).
        prefix: Before the encoder's tensors, in a model with a head.
        layer: The name of a layer, with its number; ALBERT's has the numbers of group and layer.
        parts: The names of a layer's parts, in the order of `PARTS`.
        modules: Those of the other parts of the encoder, by canonical name.
        encoder_pooler: The pooler that belongs to the encoder, if it has one.
        pooler: The dense layer before the output of a text classifier, whole name. Defaults to
            the encoder's pooler.
        output: Its output layer.
        pooler_activation: The activation of that dense layer.
        keys: The names in config.json of canonical keys, where they differ.
        defaults: Of optional keys, where they differ from BERT's.
        lacks: Canonical keys that its config.json does not have: their defaults hold.
        fixed: Options that are computed with one value only: this value, and the default of
            `transformers`.
        dropout: The key of the dropout before a head's output, by the head's kind.
        pretraining: What the names of the heads of pretraining start with, which a fine-tuned
            model may still hold.
        pads_positions: Whether positions are counted from `pad_token_id + 1`.
    """

    model_type: str
    classes: str
    prefix: str
    layer: str = "encoder.layer.{}"
    parts: tuple[str, ...] = _BERT_PARTS
    modules: dict = field(default_factory=lambda: _EMBEDDINGS)
    encoder_pooler: str | None = "pooler.dense"
    pooler: str | None = None
    output: str = "classifier"
    pooler_activation: str = "tanh"
    keys: dict = field(default_factory=dict)
    defaults: dict = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    fixed: dict = field(default_factory=dict)
    dropout: dict = field(
        default_factory=lambda: dict.fromkeys((SEQUENCE, TOKEN), "classifier_dropout")
    )
    pretraining: tuple[str, ...] = ()
    pads_positions: bool = False

    def key(self, key: str) -> str:
        """The name in config.json of a canonical key."""
        return self.keys.get(key, key)

    # Names of tensors.

    def canonical_names(self, stored) -> dict[str, str]:
        """The canonical name of each tensor of a file. See `canonical`."""
        names = {name: self.canonical(name) for name in stored}
        if self.pooler and f"{self.pooler}.weight" in names:
            # An old file may hold the encoder's pooler too, which such a model does not use.
            for name in names:
                body = name.removeprefix(f"{self.prefix}.")
                if self.encoder_pooler and body.startswith(f"{self.encoder_pooler}."):
                    names[name] = f"encoder_pooler/{name.replace('.', '/')}"
        return names

    def canonical(self, stored: str) -> str:
        """The canonical name of a tensor. One that the family does not know keeps its words.

        `transformers` saves `embeddings...` without a head, and `bert.embeddings...` with one;
        files older than 2019 call LayerNorm's weights `gamma` and `beta`.

        Example:
            >>> FAMILIES["bert"].canonical("bert.encoder.layer.0.attention.self.query.weight")
            'bert/encoder/layer_0/attention/self/query/kernel'
            >>> FAMILIES["distilbert"].canonical("pre_classifier.bias")
            'bert/pooler/dense/bias'
        """
        if stored in _SPECIAL:
            return _SPECIAL[stored]
        module, _, leaf = stored.rpartition(".")
        name = self._canonical_module(module)
        if name.endswith("_embeddings") and leaf == "weight":
            return name
        weight = "gamma" if name.endswith("LayerNorm") else "kernel"
        bias = "beta" if name.endswith("LayerNorm") else "bias"
        leaf = {"weight": weight, "bias": bias}.get(leaf, leaf)
        return f"{name}/{leaf}" if name else leaf

    def _canonical_module(self, module: str) -> str:
        body = module.removeprefix(f"{self.prefix}.")
        known = self._canonical_modules
        name = known.get(module) or known.get(body)
        if name:
            return name
        layer = self._layer_pattern.fullmatch(body)
        if layer:
            *numbers, part = layer.groups()
            names = ("group_{}/inner_{}" if len(numbers) == 2 else "layer_{}").format(*numbers)
            part = dict(zip(self.parts, PARTS)).get(part, part.replace(".", "/"))
            return f"bert/encoder/{names}/{part}"
        tops = {"embeddings", "encoder", "transformer", "pooler"}
        inside = body != module or body.partition(".")[0] in tops
        other = "other/" * body.startswith("bert.")  # a file of another family
        return (f"bert/{body}" if inside else f"{other}{body}").replace(".", "/")

    @functools.cached_property
    def _canonical_modules(self) -> dict:
        """Canonical names of the modules other than layers, by their names."""
        found = {stored: f"bert/{name}" for name, stored in self.modules.items()}
        for stored in filter(None, (self.encoder_pooler, self.pooler)):
            found[stored] = "bert/pooler/dense"
        return {**found, self.output: "classifier", "classifier": "classifier"}

    @functools.cached_property
    def _layer_pattern(self) -> re.Pattern:
        return re.compile(re.escape(self.layer).replace(r"\{\}", r"(\d+)") + r"\.(.+)")

    def stored(self, name: str, kind: str | None = None) -> str:
        """The name in `transformers`' files of a canonical tensor: the inverse of `canonical`.

        Args:
            name: Canonical name.
            kind: `"sequence"`, `"token"`, or `None` for an encoder without a head.

        Example:
            >>> FAMILIES["roberta"].stored("bert/embeddings/LayerNorm/gamma", "token")
            'roberta.embeddings.LayerNorm.weight'
        """
        if name in _SPECIAL_BACK:
            return _SPECIAL_BACK[name]
        if name.endswith("_embeddings"):
            return f"{self._stored_module(name, kind)}.weight"
        module, _, leaf = name.rpartition("/")
        leaf = {"kernel": "weight", "gamma": "weight", "beta": "bias"}.get(leaf, leaf)
        return f"{self._stored_module(module, kind)}.{leaf}" if module else leaf

    def _stored_module(self, module: str, kind: str | None) -> str:
        prefix = f"{self.prefix}." if kind else ""
        if module == "classifier":
            return "classifier" if kind == TOKEN else self.output
        if module == "bert/pooler/dense":
            own = self.pooler if kind == SEQUENCE or not self.encoder_pooler else None
            return own or f"{prefix}{self.encoder_pooler}"
        if not module.startswith("bert/"):
            return module.replace("/", ".")
        part = module[len("bert/") :]
        layer = re.fullmatch(r"encoder/(?:layer_(\d+)|group_(\d+)/inner_(\d+))/(.+)", part)
        if layer:
            *numbers, part = filter(None, layer.groups())
            part = dict(zip(PARTS, self.parts)).get(part, part.replace("/", "."))
            return f"{prefix}{self.layer.format(*numbers)}.{part}"
        return prefix + self.modules.get(part, part.replace("/", "."))

    # Heads.

    def architecture(self, kind: str | None) -> str:
        """`transformers`' class of a model with a head of this kind."""
        return self.classes + HEAD_CLASSES.get(kind, "Model")


def encoder_shapes(config: dict, most_layers: int | None = None) -> Iterator[tuple[str, tuple]]:
    """The names and shapes of an encoder's tensors, without its pooler, from a canonical config.

    Args:
        config: Canonical config.
        most_layers: Where to stop. Defaults to all layers that the config asks for.
    """
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    width = config.get("embedding_size", hidden)
    rows = config["max_position_embeddings"] + config.get("position_offset", 0)
    yield "bert/embeddings/word_embeddings", (config["vocab_size"], width)
    if "position_buckets" not in config:
        yield "bert/embeddings/position_embeddings", (rows, width)
    if config["type_vocab_size"]:
        yield "bert/embeddings/token_type_embeddings", (config["type_vocab_size"], width)
    yield from _norm("bert/embeddings/LayerNorm", width)
    if config["model_type"] == "albert" or width != hidden:
        projection = _PROJECTION
        if config["model_type"] == "bert":  # bert4keras' name, as no one else has such a BERT
            projection = "encoder/embedding_hidden_mapping_in"
        yield f"bert/{projection}/kernel", (width, hidden)
        yield f"bert/{projection}/bias", (hidden,)
    if "position_buckets" in config:
        yield "bert/encoder/rel_embeddings", (2 * config["position_buckets"], hidden)
        yield from _norm("bert/encoder/LayerNorm", hidden)
    sizes = {"intermediate/dense": (hidden, inner), "output/dense": (inner, hidden)}
    for layer in itertools.islice(layer_names(config), most_layers):
        for part in PARTS:
            if part.endswith("LayerNorm"):
                yield from _norm(f"{layer}/{part}", hidden)
            else:
                shape = sizes.get(part, (hidden, hidden))
                yield f"{layer}/{part}/kernel", shape
                yield f"{layer}/{part}/bias", shape[1:]


def layer_names(config: dict) -> Iterator[str]:
    """What the names of each layer's tensors start with. ALBERT's layers are shared in groups."""
    if "num_hidden_groups" not in config:
        for index in range(config["num_hidden_layers"]):
            yield f"bert/encoder/layer_{index}"
        return
    for group in range(config["num_hidden_groups"]):
        for inner in range(config["inner_group_num"]):
            yield f"bert/encoder/group_{group}/inner_{inner}"


def num_stored_layers(config: dict) -> int:
    """The number of layers that have tensors of their own."""
    if "num_hidden_groups" in config:
        return config["num_hidden_groups"] * config["inner_group_num"]
    return config["num_hidden_layers"]


def _norm(name: str, size: int) -> Iterator[tuple[str, tuple]]:
    yield f"{name}/gamma", (size,)
    yield f"{name}/beta", (size,)


_ROBERTA = {
    "prefix": "roberta",
    "pooler": "classifier.dense",
    "output": "classifier.out_proj",
    "defaults": {"pad_token_id": 1},
    "pretraining": ("lm_head.",),
    "pads_positions": True,
}
FAMILIES = {
    family.model_type: family
    for family in (
        Family("bert", "Bert", "bert", pretraining=("cls.predictions.", "cls.seq_relationship.")),
        Family("roberta", "Roberta", **_ROBERTA),
        Family("xlm-roberta", "XLMRoberta", **_ROBERTA),
        Family(
            "distilbert",
            "DistilBert",
            "distilbert",
            layer="transformer.layer.{}",
            parts=_DISTILBERT_PARTS,
            encoder_pooler=None,
            pooler="pre_classifier",
            pooler_activation="relu",
            pretraining=("vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
            keys={
                "hidden_act": "activation",
                "hidden_size": "dim",
                "hidden_dropout_prob": "dropout",
                "attention_probs_dropout_prob": "attention_dropout",
                "intermediate_size": "hidden_dim",
                "num_attention_heads": "n_heads",
                "num_hidden_layers": "n_layers",
            },
            defaults={"type_vocab_size": 0},
            lacks=("type_vocab_size", "layer_norm_eps"),
            dropout={SEQUENCE: "seq_classif_dropout"},
        ),
        Family(
            "electra",
            "Electra",
            "electra",
            modules={**_EMBEDDINGS, _PROJECTION: "embeddings_project"},
            encoder_pooler=None,
            pooler="classifier.dense",
            output="classifier.out_proj",
            pooler_activation="gelu",
            defaults={"embedding_size": 128},
            pretraining=("generator_predictions.", "generator_lm_", "discriminator_predictions."),
        ),
        Family(
            "albert",
            "Albert",
            "albert",
            layer="encoder.albert_layer_groups.{}.albert_layers.{}",
            parts=_ALBERT_PARTS,
            modules={**_EMBEDDINGS, _PROJECTION: "encoder.embedding_hidden_mapping_in"},
            encoder_pooler="pooler",
            pretraining=("predictions.", "sop_classifier."),
            defaults={
                "hidden_act": "gelu_new",
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
                "embedding_size": 128,
                "num_hidden_groups": 1,
                "inner_group_num": 1,
            },
            dropout=dict.fromkeys((SEQUENCE, TOKEN), "classifier_dropout_prob"),
        ),
        Family(
            "deberta-v2",
            "DebertaV2",
            "deberta",
            parts=_DEBERTA_PARTS,
            modules={
                **_EMBEDDINGS,
                "encoder/rel_embeddings": "encoder.rel_embeddings",
                "encoder/LayerNorm": "encoder.LayerNorm",
            },
            encoder_pooler=None,
            pooler="pooler.dense",
            pooler_activation="gelu",
            defaults={"type_vocab_size": 0, "layer_norm_eps": 1e-7, "position_buckets": -1},
            fixed={
                "relative_attention": (True, False),
                "position_biased_input": (False, True),
                "share_att_key": (True, False),
                "norm_rel_ebd": ("layer_norm", "none"),
                "pos_att_type": (["p2c", "c2p"], None),
                "max_relative_positions": (-1, -1),
                "type_vocab_size": (0, 0),
                "conv_kernel_size": (0, 0),
            },
            pretraining=("cls.predictions.", "lm_predictions.", "mask_predictions."),
            dropout={SEQUENCE: "cls_dropout"},
        ),
    )
}  # fmt: skip
