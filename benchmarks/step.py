r"""The time of a training step by part, and its speed relative to the machine's fastest matrix product.

python benchmarks/step.py --preset paper --batch 4
python benchmarks/step.py --preset paper --batch 32 --set run.precision=bf16 --set run.compile=true

Views are random: reading clips and making views are not timed. The peak is the speed that torch's product of
square matrices of the same type sustains on the same device; on a CPU, oneDNN's is measured too. The speed of
a shared machine changes by the minute, so each step is compared with the peaks measured just before and after
it, and the share is the median over the steps. FLOPs are those of all matrix products of the step (2 per
multiply-add), without the recomputation in fused attention's backward pass.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from itertools import pairwise
from statistics import mean, median

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import Timer, preset_parser, random_part
from xkd.config import MODALITIES, Modality
from xkd.config.overrides import resolve
from xkd.config.presets import get_preset
from xkd.launch.distributed import DistributedContext, keep_freed_memory
from xkd.model.xkd import XKD
from xkd.train.schedules import schedule
from xkd.train.step import Part, Stepper, autocast, clip_gradients

SIZES = {"cpu": (1536, 2048, 3072), "cuda": (4096, 8192)}
"""Sides of the matrices of a peak by type of device; the fastest counts."""
WARM_UP = 3
"""Steps until the process needs no more memory from the operating system."""


def attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
    """Return the FLOPs of attention's two products."""
    batch, heads, length, dim = query
    return 2 * batch * heads * length * key[2] * (dim + value[3])


def attention_backward_flops(
    _: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *__: object, **___: object
) -> int:
    """Return those of its four gradients; the recomputation of scores in fused kernels is not counted."""
    return 2 * attention_flops(query, key, value)


KERNELS = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
FLOPS = {
    getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}{suffix}"): flops
    for kernel in KERNELS
    for suffix, flops in (("", attention_flops), ("_backward", attention_backward_flops))
}
"""Torch does not count the CPU kernel, and counts what the others recompute."""


Product = Callable[[Tensor, Tensor], Tensor]


def products(device: torch.device, dtype: torch.dtype) -> dict[str, Product]:
    """Return the functions for a peak, by name: products of two square matrices, torch's first."""
    found: dict[str, Product] = {"torch.matmul": torch.matmul}
    if device.type == "cpu" and dtype is torch.float32:
        # torch has no public function for it.
        found["oneDNN"] = lambda a, b: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return found


def peak(timer: Timer, dtype: torch.dtype, product: Product) -> float:
    """Return the FLOP/s of the fastest square product."""
    best = 0.0
    for size in SIZES[timer.device.type]:
        a, b = (torch.randn(size, size, device=timer.device, dtype=dtype) for _ in range(2))
        best = max(best, 2 * size**3 / timer.sustained(lambda a=a, b=b: product(a, b)))  # type: ignore[misc]
    return best


def memory(device: torch.device) -> float:
    """Return the peak memory so far, in bytes: of the GPU, or of this process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def saved_for_backward(model: XKD, objective: Callable[[], Tensor]) -> int:
    """Return the bytes that the forward pass saves for the backward pass, without weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = objective()
    del alive  # kept until here, so that no address could be reused
    return sum(size for address, size in kept.items() if address not in weights)


def forward_parts(stepper: Stepper, model: XKD, part: Part) -> dict[str, Callable[[], object]]:
    """Return functions that compute single parts of the objective."""
    views, noise = part
    teacher_view = model.config.views.teacher_index

    def under(work: Callable[..., object], *arguments: object) -> Callable[[], object]:
        def run() -> None:
            with autocast(stepper.context.device, stepper.dtype):
                work(*arguments)

        return run

    parts = {}
    for m in MODALITIES:
        parts[f"masked autoencoder and local views, {m}"] = under(
            model.reconstruct, m, views[m][0], noise[m], views[m][1:]
        )
    parts["teachers"] = under(model.teacher_features, {m: views[m][teacher_view] for m in MODALITIES})
    return parts


def main() -> None:
    """Time the step and print the table."""
    parser = preset_parser(__doc__, preset="paper", batch=4, repeats=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    config = resolve(get_preset(args.preset), None, args.set, optim={"batch_size": args.batch})
    if len(config.modalities) < 2 or config.run.accumulate > 1:
        parser.error("only steps with two modalities and run.accumulate=1 can be timed")
    context = DistributedContext(0, 1, torch.device(args.device))
    keep_freed_memory()
    timer = Timer(context.device)
    torch.manual_seed(0)
    empty = memory(context.device)
    model = XKD(config).to(context.device)
    stepper = Stepper(model, config, context)
    part = random_part(config, context)
    now = schedule(config, 1000, 2000, 10)
    temperature: dict[Modality, float] = {m: now[f"teacher_temperature_{m}"] for m in MODALITIES}

    for _ in range(WARM_UP):
        stepper.step([part], now)
    candidates = products(context.device, stepper.dtype)

    def measure_peaks() -> dict[str, float]:
        return {name: peak(timer, stepper.dtype, product) for name, product in candidates.items()}

    peaks, steps = [measure_peaks()], []
    for _ in range(args.repeats):
        steps.append(timer.seconds(lambda: stepper.step([part], now)))
        peaks.append(measure_peaks())
    peak_memory = memory(context.device)
    with FlopCounterMode(display=False, custom_mapping=FLOPS) as counter:
        stepper.step([part], now)
    flops = counter.get_total_flops()
    shares = {
        name: [
            flops / seconds / mean([before[name], after[name]])
            for seconds, (before, after) in zip(steps, pairwise(peaks), strict=True)
        ]
        for name in candidates
    }
    step = median(steps)

    def objective() -> Tensor:
        with autocast(stepper.context.device, stepper.dtype):
            return model(*part, temperature).terms["loss"]  # type: ignore[no-any-return]

    kept = saved_for_backward(model, objective)
    rows = {
        name: timer.median(work, args.repeats) for name, work in forward_parts(stepper, model, part).items()
    }
    forward, backward = [], []
    for _ in range(args.repeats):
        losses: list[Tensor] = []
        forward.append(timer.seconds(lambda: losses.append(objective())))  # noqa: B023
        backward.append(timer.seconds(lambda: stepper.scaler.scale(losses[0]).backward()))  # type: ignore[no-untyped-call]  # noqa: B023
    rows["objective, all"], rows["backward"] = median(forward), median(backward)
    rows["clipping"] = timer.median(
        lambda: clip_gradients(model.student.parameters(), config.optim.clip_norm), args.repeats
    )
    rows["AdamW"] = timer.median(stepper.optimizer.step, args.repeats)
    rows["teachers' momentum"] = timer.median(lambda: model.update_teachers(0.999), args.repeats)

    name = torch.cuda.get_device_name(context.device) if context.device.type == "cuda" else "CPU"
    print(f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, {stepper.dtype}")
    print(f"preset {args.preset}, batch {args.batch}, median of {args.repeats} {' '.join(args.set)}")
    print("\n| part | ms |\n|---|---:|")
    for row, seconds in rows.items():
        print(f"| {row} | {1000 * seconds:.1f} |")
    print(f"| **step** | **{1000 * step:.1f}** |\n")
    print(f"{args.batch / step:.2f} samples/s, {flops / args.batch / 1e9:.1f} GFLOP a sample")
    print(f"{flops / step / 1e9:.1f} GFLOP/s")
    for name, single in shares.items():
        fastest = median(at[name] for at in peaks)
        print(f"{median(single):.1%} of the peak of {name}, {fastest / 1e9:.1f} GFLOP/s ", end="")
        print(f"(single steps: {', '.join(f'{share:.1%}' for share in single)})")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    fixed = 4 * (sum(p.numel() for p in model.parameters()) + 3 * trained)
    print(
        f"peak memory {(peak_memory - empty) / 2**30:.2f} GiB; weights, gradients and AdamW's moments: ",
        end="",
    )
    print(
        f"{fixed / 2**30:.2f} GiB; saved for the backward pass: {kept / 2**30 / args.batch:.3f} GiB a sample"
    )


if __name__ == "__main__":
    main()
