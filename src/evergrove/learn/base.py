"""A release folder from the learning side: the base and its teacher as files, and how a folder is put together.

Networks are stored as fp16 safetensors with their shape and vocabulary in the metadata, and run in fp32. The manifest
is written last, so that a folder is either a whole release or none.
"""

from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from evergrove.core.conditions import Vocabulary
from evergrove.core.errors import InvalidArtefact, MissingDependency, UsageError
from evergrove.core.release import FileRef, Manifest, sha256_hex
from evergrove.learn.dit import DiT, DiTConfig
from evergrove.learn.tensor_file import tensor_bytes

FORMAT = "evergrove-base-1"
N_BYTES_MAX = 1 << 30
MANIFEST, BASE, TEACHER = "manifest.json", "base.safetensors", "teacher.safetensors"
BASIS, GOLDEN, REHEARSAL = "basis.safetensors", "golden.npz", "rehearsal.npz"


def base_bytes(model: DiT) -> bytes:
    """The network as the bytes of its file; equal networks give equal bytes. Raises ``UsageError`` if not finite."""
    tensors = {name: tensor.half().contiguous() for name, tensor in sorted(model.state_dict().items())}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UsageError(f"'{name}' holds numbers that are not finite in fp16; this network is not saved")
    metadata = {"format": FORMAT, "network": msgspec.json.encode((model.config, model.vocabulary)).decode()}
    return tensor_bytes(tensors, metadata)


def load_network(path: Path) -> DiT:
    """The network in a file, fp32, frozen. Raises ``InvalidArtefact`` that names the file and the fault."""
    try:
        if path.stat().st_size > N_BYTES_MAX:
            raise InvalidArtefact(f"'{path}': more than {N_BYTES_MAX} bytes")
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise InvalidArtefact(f"'{path}' is no network of format {FORMAT}")
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        config, vocabulary = msgspec.json.decode(metadata["network"], type=tuple[DiTConfig, Vocabulary])
        model = DiT(config, vocabulary)
        model.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError, UsageError, msgspec.MsgspecError) as error:
        raise InvalidArtefact(f"'{path}' is no readable network ({error})") from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise InvalidArtefact(f"'{path}': '{name}' holds numbers that are not finite")
    return model.requires_grad_(False).eval()


def load_base(folder: Path) -> DiT:
    """The base of a release folder. That its bytes are those of the manifest is checked by who opens the release."""
    return load_network(folder / read_manifest(folder).base.name)


def load_teacher(folder: Path) -> DiT:
    """The teacher of a release folder. Raises ``MissingDependency`` where the release has none."""
    ref = read_manifest(folder).teacher
    if ref is None:
        raise MissingDependency(f"'{folder}' has no teacher; `evergrove base train --teacher-steps` makes one")
    return load_network(folder / ref.name)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a release folder. Raises ``InvalidArtefact`` that names the fault."""
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidArtefact(f"'{folder / MANIFEST}' is no readable manifest ({error})") from error


def file_ref(folder: Path, name: str) -> FileRef:
    """The reference to a file that lies in ``folder``."""
    data = (folder / name).read_bytes()
    return FileRef(name, sha256_hex(data), len(data))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes ``manifest.json``, at once or not at all."""
    partial = folder / (MANIFEST + ".partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    partial.replace(folder / MANIFEST)


def n_parameters(model: nn.Module) -> int:
    """How many numbers a network consists of."""
    return sum(p.numel() for p in model.parameters())
