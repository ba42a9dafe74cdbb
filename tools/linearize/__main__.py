"""The command line; see `python3 -m linearize --help`."""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch

from linearize import (
    corpus, evaluation, export, generation, medusa, model, pairs, recall, speed, table,
    training,
)  # fmt: skip
from linearize.attention import BLOCK_ROWS
from linearize.run import Run, Settings

_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_SYSTEM_PROMPT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m linearize", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, description: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=description, description=description)
        sub.add_argument(
            "--model", type=pathlib.Path, required=True, help="the base: a Hugging Face folder"
        )
        return sub

    sub = command("corpus", "tokenise text files (.jsonl, .jsonl.zst, or plain)")
    sub.add_argument("--out", type=pathlib.Path, required=True)
    sub.add_argument("--system-prompt", default=_SYSTEM_PROMPT, help="for dialogues without one")
    sub.add_argument("files", type=pathlib.Path, nargs="+")

    sub = command("recall", "make recall probes over a tokenised text")
    sub.add_argument("--data", type=pathlib.Path, required=True)
    sub.add_argument("--filler", default="valid", help="the token set between the parts")
    sub.add_argument("--count", type=int, default=48, help="of each task at each distance")
    sub.add_argument("--seed", type=int, default=1)

    sub = command("practice", "make training text in which earlier things come back")
    sub.add_argument("--data", type=pathlib.Path, required=True)
    sub.add_argument("--filler", required=True, help="the token set between the parts")
    sub.add_argument("--name", default="train-recall", help="of the token set to make")
    sub.add_argument("--count", type=int, default=512, help="documents")
    sub.add_argument("--length", type=int, default=8192, help="of a document in tokens")
    sub.add_argument("--seed", type=int, default=2)

    sub = command("generate", "write the model's own answers; without --run, those of the base")
    sub.add_argument("--data", type=pathlib.Path, required=True)
    sub.add_argument("--run", type=pathlib.Path)
    sub.add_argument("--prompts", required=True, help="a token set of dialogues")
    sub.add_argument("--name", default="train-own", help="of the token set to make")
    sub.add_argument("--count", type=int, default=4096, help="answers")
    sub.add_argument("--batch", type=int, default=1024, help="sequences at once")
    sub.add_argument("--length", type=int, default=640, help="of prompt and answer in tokens")
    sub.add_argument("--max-prompt", type=int, default=256, help="tokens")
    sub.add_argument("--seed", type=int, default=3)
    sub.add_argument("--device", default=_DEVICE)

    sub = command("transfer", "fit each layer's new parameters to the teacher's attention")
    _add_training(sub, steps="8192:150", rate=1e-2, gate_rate=5e-2)

    sub = command("distill", "train the model on the teacher's predictions")
    _add_training(sub, steps="1024:2000,8192:1000", rate=7e-4, gate_rate=1.4e-2)
    sub.add_argument("--new-rate", type=float, default=1.4e-3,
                     help="learning rate of the attention's own parameters")  # fmt: skip
    sub.add_argument("--ce", type=float, default=0.1, help="weight of the cross-entropy")
    sub.add_argument("--checkpointing", action="store_true", help="recompute layers: less memory")

    sub = command("medusa", "train draft heads on the trained model's own choices")
    _add_data(sub)
    sub.add_argument("--run", type=pathlib.Path, required=True)
    sub.add_argument("--heads", type=int, default=4)
    sub.add_argument("--heads-from", type=pathlib.Path, help="a run whose heads to start from")
    sub.add_argument("--kept-rows", type=int, default=0,
                     help="train on tokens of so many rows, their hidden states kept")  # fmt: skip
    _add_schedule(sub, steps="1024:1000", rate=1.5e-3)

    sub = command("pairs", "count which tokens follow which in the model's own text, for its heads")
    sub.add_argument("--data", type=pathlib.Path, required=True)
    sub.add_argument("--run", type=pathlib.Path, required=True)
    sub.add_argument("--sets", default="train-own", help="token sets: a,b")

    sub = command("eval", "perplexity and recall; without --run, of the base itself")
    sub.add_argument("--data", type=pathlib.Path, required=True)
    sub.add_argument("--run", type=pathlib.Path)
    sub.add_argument("--sets", default="wikitext,valid,valid-dialogues")
    sub.add_argument("--contexts", default="1024,4096,8192")
    sub.add_argument("--head-sets", default="valid,valid-dialogues", help="for draft heads")
    sub.add_argument("--max-tokens", type=int, default=131_072)
    sub.add_argument("--out", type=pathlib.Path, required=True, help="a .json file")
    _add_device(sub)

    sub = commands.add_parser("table", help="results of `eval` as Markdown tables")
    sub.add_argument("results", type=pathlib.Path, nargs="+", help="files that `eval` wrote")

    sub = command("speed", "measure training on weights and tokens drawn at random; --model needs"
                  " config.json alone")  # fmt: skip
    _add_form(sub)
    sub.add_argument("--attention-lengths", default="", help="time a layer's attention: 4096,8192")
    sub.add_argument("--checkpointing", action="store_true", help="recompute layers: less memory")
    sub.add_argument("--out", type=pathlib.Path, required=True, help="a .jsonl file")
    _add_steps(sub, steps="1024:20,4096:20")
    _add_device(sub)

    sub = command("export", "write what the run trained for Treeline")
    sub.add_argument("--run", type=pathlib.Path, required=True)
    sub.add_argument("--out", type=pathlib.Path, required=True)
    kind = sub.add_mutually_exclusive_group()
    kind.add_argument("--adapter", action="store_true", help="only what was trained")
    kind.add_argument("--float32", action="store_true", help="merged, without rounding to bf16")
    return parser


def _add_training(sub: argparse.ArgumentParser, steps: str, rate: float, gate_rate: float) -> None:
    _add_data(sub)
    sub.add_argument("--run", type=pathlib.Path, required=True, help="made, or gone on with")
    _add_form(sub)
    sub.add_argument("--full", default="", help="projections to train whole")
    sub.add_argument("--gate-rate", type=float, default=gate_rate,
                     help="learning rate of decays and factors")  # fmt: skip
    _add_schedule(sub, steps, rate)


def _add_form(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--attention", type=pathlib.Path, required=True,
                     help="a file with the linear_attention block")  # fmt: skip
    sub.add_argument("--lora-rank", type=int, default=64)
    sub.add_argument("--lora-alpha", type=float, default=128)
    sub.add_argument("--lora", default=",".join(model.PROJECTIONS))


def _add_data(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--data", type=pathlib.Path, required=True, help="made by `corpus`")
    sub.add_argument("--mix", required=True, help="token sets and their shares: docs=0.3,chat=0.7")


def _add_steps(sub: argparse.ArgumentParser, steps: str) -> None:
    sub.add_argument("--steps", default=steps, help="DOCUMENT_LENGTH:STEPS,...")


def _add_schedule(sub: argparse.ArgumentParser, steps: str, rate: float) -> None:
    _add_steps(sub, steps)
    sub.add_argument("--rate", type=float, default=rate, help="peak learning rate")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--log-every", type=int, default=20)
    sub.add_argument("--save-every-s", type=float, default=300)
    sub.add_argument("--stop-after-s", type=float, default=float("inf"),
                     help="save and stop; the same command goes on")  # fmt: skip
    _add_device(sub)


def _add_device(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--device", default=_DEVICE)
    sub.add_argument("--compile", action="store_true")
    sub.add_argument("--row-tokens", type=int, default=32_768, help="tokens in a step")


def _dtype(args: argparse.Namespace) -> torch.dtype:
    return torch.bfloat16 if args.device == "cuda" else torch.float32


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _corpus(args: argparse.Namespace) -> None:
    for file in args.files:
        documents = corpus.read_documents(file, args.system_prompt)
        tokens = corpus.tokenize(documents, args.model / "tokenizer.json")
        name = file.name.partition(".")[0]
        tokens.save(args.out, name)
        print(f"{name}: {len(tokens.tokens)} tokens in {len(tokens.lengths)} documents")


def _encoder(args: argparse.Namespace) -> Callable[[str], list[int]]:
    import tokenizers  # only for making texts

    tokenizer = tokenizers.Tokenizer.from_file(str(args.model / "tokenizer.json"))
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def _recall(args: argparse.Namespace) -> None:
    filler = corpus.TokenSet.load(args.data, args.filler)
    probes = recall.generate(_encoder(args), filler, args.count, args.seed)
    probes.save(args.data / "recall.npz")


def _practice(args: argparse.Namespace) -> None:
    filler = corpus.TokenSet.load(args.data, args.filler)
    text = recall.practice(_encoder(args), filler, args.count, args.length, args.seed)
    text.save(args.data, args.name)


def _generate(args: argparse.Namespace) -> None:
    encode = _encoder(args)
    opening, (stop,) = encode("<|im_start|>assistant\n"), encode("<|im_end|>")
    dialogues = corpus.TokenSet.load(args.data, args.prompts)
    found = generation.prompts(dialogues, opening, args.max_prompt, args.seed)
    texts = list(itertools.islice(found, args.count))
    if not texts:
        raise ValueError(f"{args.prompts}: no prompt of at most {args.max_prompt} tokens")
    subject = _subject(args)
    made = list(generation.answers(subject, texts, args.length, args.batch, stop))
    offsets = np.cumsum([0, *map(len, made)])
    tokens = np.concatenate(made).astype(dialogues.tokens.dtype)
    corpus.TokenSet(tokens, offsets).save(args.data, args.name)
    print(f"{args.name}: {len(tokens)} tokens in {len(made)} documents")


def _subject(args: argparse.Namespace) -> model.Model:
    """What --run trained, updates folded in, or else the base itself; frozen."""
    if args.run:
        subject = Run.open(args.run).trained(args.model, _dtype(args))
    else:
        subject = model.load(args.model, None, _dtype(args))
    return subject.to(args.device).requires_grad_(False).fold_updates()


def _open_run(args: argparse.Namespace) -> Run:
    settings = Settings(
        linear_attention=json.loads(args.attention.read_text(encoding="utf-8")),
        lora_rank=args.lora_rank,
        lora_alpha=args.lora_alpha,
        lora=tuple(name for name in _names(args.lora) if name not in _names(args.full)),
        full=_names(args.full),
        seed=args.seed,
    )
    return Run.create(args.run, settings)


def _train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    run, stage, dtype = _open_run(args), args.command, _dtype(args)
    student = run.student(args.model, dtype, stage).to(args.device)
    if not student.attention_parameters() and stage == "transfer":
        print("this form adds no parameters: nothing to transfer")
        return
    teacher = model.load(args.model, model.SOFTMAX, dtype).to(args.device)
    common = _training_parts(args, run, student.alignment)
    if stage == "transfer":
        training.transfer(teacher, student, args.gate_rate, *common)
    else:
        student.checkpointing = args.checkpointing
        training.distill(teacher, student, args.new_rate, args.gate_rate, args.ce, *common)


def _medusa(args: argparse.Namespace) -> None:
    run = Run.open(args.run)
    trained = _subject(args)
    heads = medusa.MedusaHeads(trained.config.hidden_size, args.heads)
    if args.heads_from:
        heads.load_state_dict(Run.open(args.heads_from).medusa().state_dict())
    heads = heads.to(args.device)
    parts = _training_parts(args, run, trained.alignment)
    training.train_medusa(trained, heads, *parts, kept_rows=args.kept_rows)


def _pairs(args: argparse.Namespace) -> None:
    config = json.loads((args.model / "config.json").read_text(encoding="utf-8"))
    texts = [corpus.TokenSet.load(args.data, name) for name in _names(args.sets)]
    made = pairs.count(texts, config["vocab_size"])
    made.save(Run.open(args.run).pairs_file)
    print(f"{len(made.seconds)} pairs")


def _training_parts(args: argparse.Namespace, run: Run, align: int) -> tuple:
    """What every training stage takes last: sampler, schedule, rate, checkpoint, log, options."""
    if args.device == "cuda":
        align = max(align, BLOCK_ROWS)
    mix = (entry.split("=") for entry in _names(args.mix))
    sets = [(corpus.TokenSet.load(args.data, name), float(share)) for name, share in mix]
    what = {"stage": args.command, "steps": args.steps, "rate": args.rate, "mix": args.mix,
            "row_tokens": args.row_tokens}  # fmt: skip
    return (
        corpus.Sampler(sets, args.row_tokens, align, args.seed),
        _schedule(args.steps),
        args.rate,
        training.Checkpoint(run.checkpoint(args.command), what),
        training.Log(run.log),
        training.RunOptions(args.compile, args.log_every, args.save_every_s, args.stop_after_s),
    )


def _schedule(steps: str) -> training.Schedule:
    phases = (entry.split(":") for entry in _names(steps))
    return training.Schedule([training.Phase(int(n), int(length)) for length, n in phases])


def _speed(args: argparse.Namespace) -> None:
    block = json.loads(args.attention.read_text(encoding="utf-8"))
    torch.manual_seed(0)
    log = training.Log(args.out)
    for length in map(int, _names(args.attention_lengths)):
        for record in speed.attention(args.model, block, length, _dtype(args), args.device):
            log.write(**record)
    schedule = _schedule(args.steps)
    if schedule.steps:
        student = model.random(args.model, block, _dtype(args), args.device)
        student.add_lora(args.lora_rank, args.lora_alpha, _names(args.lora), seed=0)
        student.checkpointing = args.checkpointing
        speed.training_steps(
            args.model, student.to(args.device), schedule, args.row_tokens, log, args.compile
        )


def _eval(args: argparse.Namespace) -> None:
    subject = _subject(args)
    if args.compile:
        training.compile_layers(subject)
    result: dict[str, object] = {}
    for name in _names(args.sets):
        tokens = corpus.TokenSet.load(args.data, name).tokens
        for context in map(int, _names(args.contexts)):
            value = evaluation.perplexity(subject, tokens, context, args.max_tokens,
                                          args.row_tokens)  # fmt: skip
            result[f"{name}@{context}"] = round(value, 3)
            print(f"{name}@{context}: perplexity {value:.3f}", flush=True)
    if (args.data / "recall.npz").exists():
        probes = recall.Probes.load(args.data / "recall.npz")
        result["recall"] = evaluation.recall_scores(subject, probes, args.row_tokens)
        for entry in result["recall"]:
            print(json.dumps(entry), flush=True)
    if args.run and Run.open(args.run).checkpoint("medusa").exists():
        heads = Run.open(args.run).medusa().to(args.device)
        for name in _names(args.head_sets):
            tokens = corpus.TokenSet.load(args.data, name)
            accuracy = evaluation.head_accuracy(
                subject, heads, tokens, args.max_tokens, args.row_tokens
            )
            result[f"heads@{name}"] = [[round(x, 4) for x in head] for head in accuracy]
            print(f"{name}: top-1 of the heads {[round(head[0], 3) for head in accuracy]}")
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _table(args: argparse.Namespace) -> None:
    read = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in args.results}
    print(table.markdown(read), end="")


def _export(args: argparse.Namespace) -> None:
    run = Run.open(args.run)
    trained = run.trained(args.model, torch.float32)
    if args.adapter:
        export.adapter(trained, args.model.name, run.settings.linear_attention, args.out)
    else:
        spec = run.settings.linear_attention
        export.merged(trained, args.model, spec, args.out, args.float32)
    if run.checkpoint("medusa").exists():
        scale = medusa.drawn_scale(trained)
        medusa.save(run.medusa(), scale, args.model.name, args.out, run.pairs())


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    actions = {
        "corpus": _corpus, "recall": _recall, "practice": _practice, "generate": _generate,
        "transfer": _train, "distill": _train, "medusa": _medusa, "pairs": _pairs, "eval": _eval,
        "speed": _speed, "table": _table, "export": _export,
    }  # fmt: skip
    torch.set_float32_matmul_precision("high")  # S is summed in TF32 on a GPU
    try:
        actions[args.command](args)
    except (OSError, ValueError, ArithmeticError) as error:
        print(f"linearize: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
