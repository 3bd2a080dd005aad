"""From a checkpoint that sees to its tower as a Model; every value is checked from headers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from kanna import encodings
from kanna._util import plugins
from kanna._util.typed import LAYERS, TypedObject, listed, number, shown, whole
from kanna.errors import SourceError, UnsupportedError
from kanna.families._general import general
from kanna.families._refusal import raise_fatal
from kanna.families.base import Problem
from kanna.families.towers.base import Sizes, Tower, TowerConfig
from kanna.families.towers.stored import ARCH, stored
from kanna.families.towers.token_rows import token_row
from kanna.families.views import HeadRows
from kanna.formats.text_files import read_object
from kanna.formats.views import Renamed
from kanna.model import (
    MetaValue,
    Model,
    Tensor,
    ValueType,
    array,
    boolean,
    num_weights,
    string,
    u32,
)

if TYPE_CHECKING:
    from kanna.sources import Source

_FILES = ("preprocessor_config.json", "processor_config.json")
_LARGEST = 1 << 16
_SIZE = whole(1, _LARGEST)
_HEADS = "num_attention_heads"
_COLOURS = 3
_LARGEST_PICTURE = 1 << 14
_UNPROVED = {
    "Gemma4UnifiedForConditionalGeneration": "in layers without a window transformers lets tokens "
    "of a picture see all of it, and llama.cpp those before them",
    "Llama4ForConditionalGeneration": "llama.cpp itself warns that it reads pictures worse than "
    "the model does",
}
"""Towers that llama.cpp has, and why none of them is written."""
_COMPUTED = {"f32", "f16", "bf16", "f64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTower:
    """A tower with its values.

    Attributes:
        tower: Which one it is.
        model: Its tensors and `clip.*` keys.
    """

    tower: Tower
    model: Model


def names() -> tuple[str, ...]:
    """Towers that can be written."""
    return plugins.names("kanna.families.towers", "TOWER")


@cache
def _towers() -> tuple[Tower, ...]:
    return tuple(plugins.load("kanna.families.towers", name, "TOWER") for name in names())


def load(source: Source) -> LoadedTower:
    """The vision tower of a checkpoint; no weight is read.

    Args:
        source: An open source.

    Raises:
        UnsupportedError: It has no tower, or one that llama.cpp or kanna does not compute.
        SourceError: A value of its config is wrong, or the settings of pictures are absent.
    """
    tower = _tower_of(source)
    c = _config(source, tower)
    tensors, problems = _mapped(source, tower, c)
    raise_fatal(_fixed(tower, c) + tower.checks(c) + problems)
    width = _base_sizes(c)["text"]
    tensors |= {n: token_row(source, n, t, width) for n, t in tower.token_rows.items()}
    metadata, notes = general(source, sum(num_weights(t) for t in tensors.values()), ARCH)
    kept = {k: v for k, v in metadata.items() if not k.startswith("general.sampling.")}
    return LoadedTower(
        tower=tower,
        model=Model(
            name=source.name,
            family=ARCH,
            tensors=tensors,
            metadata=kept | _metadata(tower, c) | tower.metadata(c),
            notes=notes,
        ),
    )


def _tower_of(source: Source) -> Tower:
    if source.kind == "gguf":
        raise UnsupportedError(
            f"{source.given} is a GGUF: its vision tower is a file of its own",
            expected="the checkpoint it was made from",
            todo="give the checkpoint, or use the mmproj that was published beside the GGUF",
        )
    classes = source.config.get("architectures")
    own: list[Any] = classes if isinstance(classes, list) else []
    tower = next((t for t in _towers() if any(a in t.architectures for a in own)), None)
    if tower is not None:
        return tower
    class_name = shown(own[0]) if own else "a model of no architecture"
    reason = next((why for name, why in _UNPROVED.items() if name in own), "it is not written yet")
    if not isinstance(source.config.get("vision_config"), dict):
        raise UnsupportedError(
            f"{class_name} has no vision tower: config.json has no vision_config",
            expected=_expected(),
        )
    raise UnsupportedError(
        f"the vision tower of {class_name} is not written here: {reason}",
        expected=_expected(),
        todo="convert the text model without --mmproj, and use an mmproj that others published",
    )


def _expected() -> str:
    return "one of " + ", ".join(a for t in _towers() for a in t.architectures)


def _config(source: Source, tower: Tower) -> TowerConfig:
    whole_config = TypedObject(source.config, "config.json")
    vision = whole_config.part("vision_config").values
    filled = {**tower.defaults, **{k: v for k, v in vision.items() if v is not None}}
    filled |= {key: value for key, value in tower.given(filled).items() if value is not None}
    text = whole_config.part("text_config")
    return TowerConfig(
        whole=whole_config,
        vision=TypedObject(filled, "config.json", inside="vision_config."),
        text=text if text.values else whole_config,
        pictures=_pictures(source),
    )


def _pictures(source: Source) -> TypedObject:
    """The settings of pictures; raises SourceError where no file has them."""
    for name in _FILES:
        path = source.files.get(name)
        if path is None:
            continue
        given = read_object(path)
        settings = given.part("image_processor") if "image_processor" in given else given
        if "image_mean" in settings:
            return settings
    raise SourceError(
        f"{source.given} does not say how a picture is prepared: no image_mean is in "
        + " or ".join(_FILES),
        expected="the mean and the deviation of each colour",
        todo=f"fetch {_FILES[0]} from where the model was published",
    )


def _base_sizes(c: TowerConfig) -> Sizes:
    return {
        "hidden": c.vision.need("hidden_size", _SIZE),
        "ff": c.vision.need("intermediate_size", _SIZE),
        "patch": c.vision.need("patch_size", _SIZE),
        "channels": _COLOURS,
        "text": c.text.need("hidden_size", _SIZE),
    }


def _metadata(tower: Tower, c: TowerConfig) -> dict[str, MetaValue]:
    sizes = _base_sizes(c)
    return {
        "general.type": string("mmproj"),
        "clip.has_vision_encoder": boolean(True),
        "clip.projector_type": string(tower.projector),
        "clip.vision.projection_dim": u32(sizes["text"]),
        "clip.vision.image_size": u32(c.vision.need("image_size", whole(1, _LARGEST_PICTURE))),
        "clip.vision.patch_size": u32(sizes["patch"]),
        "clip.vision.embedding_length": u32(sizes["hidden"]),
        "clip.vision.feed_forward_length": u32(sizes["ff"]),
        "clip.vision.block_count": u32(c.vision.need("num_hidden_layers", LAYERS)),
        "clip.vision.attention.head_count": u32(c.vision.need(_HEADS, _SIZE)),
        "clip.vision.image_mean": array(_colours(c, "image_mean", 0.0), ValueType.F32),
        "clip.vision.image_std": array(_colours(c, "image_std", 1e-4), ValueType.F32),
    }


def _colours(c: TowerConfig, key: str, least: float) -> list[float]:
    """One value per colour; raises SourceError for another number of them."""
    values = c.pictures.need(key, listed(number(least, 1.0), 16))
    if len(values) != _COLOURS:
        raise SourceError(
            f"{c.pictures.file} has {len(values)} values of {key}",
            expected="three: of red, green and blue",
            todo="fetch it again from where the model was published",
        )
    return values


def _fixed(tower: Tower, c: TowerConfig) -> list[Problem]:
    wrong = [
        Problem(
            f"config.json has vision_config.{key} = {shown(c.vision.values[key])}",
            " or ".join(map(str, allowed)) + ", which llama.cpp computes",
            "llama.cpp does not compute this tower",
        )
        for key, allowed in tower.fixed.items()
        if c.vision.values.get(key) is not None and c.vision.values[key] not in allowed
    ]
    hidden, heads = _base_sizes(c)["hidden"], c.vision.need(_HEADS, _SIZE)
    image = c.vision.need("image_size", whole(1, _LARGEST_PICTURE))
    patch = _base_sizes(c)["patch"]
    if hidden % heads:
        wrong.append(Problem(f"{heads} heads in a width of {hidden}", "heads that divide it"))
    if image < patch:
        wrong.append(Problem(f"patches of {patch} in pictures of {image}", "smaller patches"))
    return wrong


def _places(tower: Tower, c: TowerConfig) -> Iterator[tuple[str, str]]:
    layers = c.vision.need("num_hidden_layers", LAYERS)
    yield from tower.names_of(c).items()
    for name, gguf_name in tower.names.items():
        for layer in range(layers) if "{}" in name else (0,):
            yield name.replace("{}", str(layer)), gguf_name.replace("{}", str(layer))


def _shape_key(gguf_name: str) -> str:
    """A tensor's name as `Tower.shapes` has it."""
    return re.sub(r"^v\.(blk|deepstack)\.\d+\.", r"v.\1.{}.", gguf_name)


def _own_name(tower: Tower, name: str) -> str | None:
    """The name of a tensor of the tower without its prefix; None of others."""
    for pattern in tower.owns:
        if match := re.match(pattern, name):
            return name[match.end() :]
    return None


def _mapped(
    source: Source, tower: Tower, c: TowerConfig
) -> tuple[dict[str, Tensor], list[Problem]]:
    sizes = _base_sizes(c) | tower.sizes(c)
    given = {
        own: tensor
        for name, tensor in source.tensors.items()
        if (own := _own_name(tower, name)) is not None
        and not any(re.fullmatch(p, own) for p in tower.unused)
    }
    mapped: dict[str, Tensor] = {}
    problems: list[Problem] = []
    for name, gguf_name in _places(tower, c):
        tensor = given.pop(name, None)
        if tensor is None:
            problems.append(
                Problem(
                    f"tensor {name} of the vision tower is missing",
                    "every tensor of the layers that vision_config names",
                    "a shard is missing or the download stopped: fetch the model again",
                )
            )
            continue
        shape = tuple(sizes[s] for s in tower.shapes[_shape_key(gguf_name)])
        if tuple(tensor.shape) != shape:
            problems.append(
                Problem(f"{name} has the shape {tuple(tensor.shape)}", f"{shape}, by config.json")
            )
        elif tensor.dtype not in _COMPUTED:
            problems.append(Problem(f"{name} is stored as {tensor.dtype}", "16 or 32 bits"))
        else:
            shared = (extra for extra, of in tower.also.items() if of == gguf_name)
            for one in (gguf_name, *shared):
                mapped[one] = _view(tower, c, one, tensor)
    problems += [
        Problem(
            f"tensor {name} of the vision tower has no place in an mmproj",
            todo="this is another tower than kanna knows",
        )
        for name in given
    ]
    return mapped, problems


def _view(tower: Tower, c: TowerConfig, name: str, tensor: Tensor) -> Tensor:
    """A tensor as llama.cpp expects it."""
    key = _shape_key(name)
    if key in tower.interleaved:
        return HeadRows(name, tensor, _base_sizes(c)["hidden"] // c.vision.need(_HEADS, _SIZE))
    return tower.forms.get(key, Renamed)(name, tensor)


def memory_bytes(source: Source, wanted: str = "f16") -> int:
    """What a checkpoint's tower takes beside the model of text: weights, states of a picture.

    Args:
        source: The checkpoint.
        wanted: The encoding of its matrices.

    Raises:
        UnsupportedError: As `load`.
    """
    loaded = load(source)
    bits = sum(
        num_weights(tensor) * encodings.get(rounding(loaded.tower, tensor, wanted)).bits
        for tensor in loaded.model.tensors.values()
    )
    seen = stored(loaded.model.metadata)
    return int(bits / 8) + (seen.state_bytes if seen is not None else 0)


def rounding(tower: Tower, tensor: Tensor, wanted: str) -> str:
    """The encoding of a tensor of an mmproj.

    Args:
        tower: The tower.
        tensor: Its tensor.
        wanted: The encoding that was asked for.
    """
    if len(tensor.shape) < 2 or wanted == "f32":
        return "f32"
    kept = tower.whole.get(_shape_key(tensor.name))
    if kept is not None:
        return kept
    return "f16" if tensor.shape[-1] % encodings.get(wanted).block else wanted
