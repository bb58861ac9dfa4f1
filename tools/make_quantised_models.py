#!/usr/bin/env python3
"""A tiny model in the layouts of GPTQ and AWQ, built with numpy alone from their descriptions, for tests/model/test_quant_file.c.

    tools/make_quantised_models.py OUT [--bitsandbytes]

Writes OUT/plain, random weights, and OUT/NAME/{config.json, model.safetensors} for every layout; OUT/NAME/values.safetensors has the numbers
that a reader must get: two decoded matrices in float32.  Groups of 128 want wider matrices: those come from a model of their own.  Folders whose names have -skip leave one module as it is, as people do with what
suffers most from quantising: down_proj, or v_proj (-skip-v), which is one matrix with q_proj and k_proj in memory.  With --bitsandbytes
also folders that transformers and the bitsandbytes package make of OUT/plain.  tests/fixtures/quant is its output.
"""
import json
import pathlib
import sys

import numpy as np

DTYPES = {"F32": np.float32, "F16": np.float16, "I32": np.int32}


CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
          "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1, "vocab_size": 64, "rms_norm_eps": 1e-5,
          "max_position_embeddings": 64, "tie_word_embeddings": True, "torch_dtype": "float16", "bos_token_id": 1,
          "eos_token_id": 2}
WIDE = {"hidden_size": 256, "intermediate_size": 128, "num_attention_heads": 8}  # for groups of 128
CHECKED = ("k_proj.weight", "down_proj.weight")
# A module that stays plain, by the end of a folder's name.
SKIPPED = {"-skip": "model.layers.0.mlp.down_proj", "-skip-v": "model.layers.0.self_attn.v_proj"}


def skipped(name):
    return next((module for end, module in SKIPPED.items() if name.endswith(end)), None)


def make_plain(rng, config):
    c, f = config["hidden_size"], config["intermediate_size"]
    kv = c // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"self_attn.q_proj": (c, c), "self_attn.k_proj": (kv, c), "self_attn.v_proj": (kv, c), "self_attn.o_proj": (c, c),
              "mlp.gate_proj": (f, c), "mlp.up_proj": (f, c), "mlp.down_proj": (c, f)}
    t = {f"model.layers.0.{k}.weight": rng.normal(0, 0.05, s) for k, s in shapes.items()}
    t["model.embed_tokens.weight"] = rng.normal(0, 0.05, (64, c))
    for k in ("model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"):
        t[k + ".weight"] = 1 + rng.normal(0, 0.1, c)
    return {k: v.astype(np.float16) for k, v in t.items()}


def save(path, tensors):
    names = {np.dtype(v): k for k, v in DTYPES.items()}
    header, at = {"__metadata__": {"format": "pt"}}, 0
    order = sorted(tensors, key=lambda k: (-tensors[k].itemsize, k))
    for k in order:
        t = tensors[k]
        header[k] = {"dtype": names[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(tensors[k].tobytes() for k in order))


def pack_down(values, bits):
    """values (n, m) -> words (n bits / 32, m): a stream of bits down each column, least significant first."""
    n, m = values.shape
    stream = ((values[:, None, :] >> np.arange(bits)[None, :, None]) & 1).reshape(n * bits, m)
    words = (stream.reshape(n * bits // 32, 32, m).astype(np.uint64) << np.arange(32, dtype=np.uint64)[None, :, None]).sum(1)
    return words.astype(np.uint32).view(np.int32)


def pack_awq(values):
    """values (n, m) of 4 bits -> words (n, m / 8) in AWQ's order of columns."""
    n, m = values.shape
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    words = np.zeros((n, m // 8), np.uint32)
    for k, col in enumerate(order):
        words |= values.reshape(n, m // 8, 8)[:, :, col].astype(np.uint32) << np.uint32(4 * k)
    return words.view(np.int32)


def quantise(w, bits, group, order, sym, rng):
    """w (out, in) -> codes (in, out), zeros, scales (groups, out), the group of each column."""
    out, cols = w.shape
    group = cols if group == -1 else group
    groups = -(-cols // group)
    index = np.arange(cols) // group
    if order:
        index = index[rng.permutation(cols)]
    codes = np.zeros((cols, out), np.int64)
    scales, zeros = np.zeros((groups, out), np.float16), np.zeros((groups, out), np.int64)
    most = 2 ** bits - 1
    for g in range(groups):
        part = w[:, index == g]
        if sym:
            scale = np.abs(part).max(1) * 2 / most
            zero = np.full(out, 2 ** (bits - 1))
        else:
            low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
            scale = (high - low) / most
            zero = np.clip(np.round(-low / scale), 1, most)
        scales[g], zeros[g] = scale.astype(np.float16), zero
    s, z = scales.astype(np.float32)[index], zeros[index]
    codes = np.clip(np.round(w.T / s) + z, 0, most).astype(np.int64)
    value = (s * (codes - z).astype(np.float32)).T
    return codes, zeros, scales, index, np.ascontiguousarray(value, np.float32)


def gptq(w, bits, group, order, sym, v2, rng):
    codes, zeros, scales, index, value = quantise(w, bits, group, order, sym, rng)
    stored = zeros if v2 else zeros - 1
    t = {"qweight": pack_down(codes, bits), "qzeros": np.ascontiguousarray(pack_down(stored.T, bits).T),
         "scales": scales, "g_idx": index.astype(np.int32)}
    return t, value


def awq(w, group, rng):
    codes, zeros, scales, _, value = quantise(w, 4, group, False, False, rng)
    return {"qweight": pack_awq(codes), "qzeros": pack_awq(zeros), "scales": scales}, value


def write(folder, tensors, quantization, config=CONFIG):
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "model.safetensors", tensors)
    config = {**config, "quantization_config": quantization} if quantization else config
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def with_bitsandbytes(out):
    import torch
    import bitsandbytes.functional as F
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    reference = torch._C.DispatchKeySet(torch._C.DispatchKey.CompositeExplicitAutograd)
    kinds = {"bnb-nf4": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32),
             "bnb-fp4-double": dict(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=True,
                                    bnb_4bit_compute_dtype=torch.float32),
             "bnb-int8": dict(load_in_8bit=True)}
    # the same bytes, called numbers of 16 bits: how FSDP wants them
    kinds["bnb-nf4-bf16-storage"] = {**kinds["bnb-nf4"], "bnb_4bit_quant_storage": torch.bfloat16}
    for name in ("bnb-nf4-skip", "bnb-int8-skip", "bnb-int8-skip-v"):
        kinds[name] = {**kinds[name[:name.index("-skip")]], "llm_int8_skip_modules": ["lm_head", skipped(name)]}
    for name, kind in kinds.items():
        model = AutoModelForCausalLM.from_pretrained(out / "plain", quantization_config=BitsAndBytesConfig(**kind),
                                                     dtype=torch.float16, device_map={"": "cpu"})
        model.save_pretrained(out / name)
        values = {}
        for key, module in model.named_modules():
            if not (key + ".weight").endswith(CHECKED) and key != skipped(name):
                continue
            w = module.weight
            if key == skipped(name):
                values[key + ".weight"] = w.data.float()
            elif name.startswith("bnb-int8"):
                t = load_file(out / name / "model.safetensors")
                values[key + ".weight"] = F.int8_vectorwise_dequant(t[key + ".weight"], t[key + ".SCB"])
            else:
                # The package's reference operator: its C library for CPUs (0.50.2) takes the scales of other blocks where a
                # row is not a whole number of blocks.
                state = w.quant_state
                absmax = state.absmax
                if state.nested:
                    absmax = F.dequantize_blockwise(absmax, state.state2) + state.offset
                values[key + ".weight"] = torch.ops.bitsandbytes.dequantize_4bit.default.redispatch(
                    reference, w.data.view(torch.uint8), absmax, state.blocksize, state.quant_type, state.shape, torch.float32)
        save_file(values, out / name / "values.safetensors", metadata={"format": "pt"})
        (out / name / "generation_config.json").unlink(missing_ok=True)


def with_blocks(out, name, kind, block):
    """What transformers would save if it let one choose the block size; the package does."""
    import torch
    import bitsandbytes.functional as F
    from safetensors.torch import load_file, save_file
    reference = torch._C.DispatchKeySet(torch._C.DispatchKey.CompositeExplicitAutograd)
    tensors, values = {}, {}
    for key, w in load_file(out / "plain" / "model.safetensors").items():
        if "proj" not in key:
            tensors[key] = w
            continue
        codes, state = F.quantize_4bit(w, quant_type=kind, blocksize=block, compress_statistics=True)
        tensors[key] = codes
        tensors.update({f"{key}.{k}": t for k, t in state.as_dict(packed=True).items()})
        if key.endswith(CHECKED):
            absmax = F.dequantize_blockwise(state.absmax, state.state2) + state.offset
            values[key] = torch.ops.bitsandbytes.dequantize_4bit.default.redispatch(
                reference, codes, absmax, block, kind, state.shape, torch.float32)
    quantization = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": kind,
                    "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "float32", "bnb_4bit_quant_storage": "uint8"}
    (out / name).mkdir(exist_ok=True)
    save_file({k: t.contiguous() for k, t in tensors.items()}, out / name / "model.safetensors", metadata={"format": "pt"})
    save_file(values, out / name / "values.safetensors", metadata={"format": "pt"})
    (out / name / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": quantization}, indent=2) + "\n")


def main():
    out = pathlib.Path(sys.argv[1])
    model = make_plain(np.random.default_rng(0), CONFIG)
    wide = make_plain(np.random.default_rng(2), CONFIG | WIDE)
    write(out / "plain", model, None)
    layouts = {}
    for bits, group, order, sym, v2 in [(4, 32, False, True, False), (4, 64, True, True, False), (4, -1, False, False, True),
                                        (8, 32, True, False, True), (3, 64, False, True, False), (2, 32, False, True, True),
                                        (4, 128, True, False, False)]:
        name = f"gptq-{bits}bit-g{group}{'-order' if order else ''}{'-v2' if v2 else ''}"
        q = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": order, "sym": sym,
             "checkpoint_format": "gptq_v2" if v2 else "gptq"}
        layouts[name] = (q, lambda w, rng, a=(bits, group, order, sym, v2): gptq(w, *a, rng))
    for group in 32, 128:
        q = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}
        layouts[f"awq-g{group}"] = (q, lambda w, rng, group=group: awq(w, group, rng))
    for name in ("gptq-4bit-g32-skip", "awq-g32-skip", "gptq-4bit-g64-order-skip-v"):
        q, pack = layouts[name[:name.index("-skip")]]
        key = {"modules_to_not_convert": [skipped(name)]} if q["quant_method"] == "awq" else {"dynamic": {"-:" + skipped(name): {}}}
        layouts[name] = ({**q, **key}, pack)
    for name, (q, pack) in layouts.items():
        rng = np.random.default_rng(1)
        tensors, values = {}, {}
        is_wide = q["group_size"] == 128
        for k, w in (wide if is_wide else model).items():
            if not k.endswith("_proj.weight") or k == f"{skipped(name)}.weight":
                tensors[k] = w
                if "_proj" in k:
                    values[k] = w.astype(np.float32)
                continue
            parts, value = pack(w.astype(np.float32), rng)
            tensors.update({f"{k[:-len('.weight')]}.{p}": t for p, t in parts.items()})
            if k.endswith(CHECKED):
                values[k] = value
        write(out / name, tensors, q, CONFIG | WIDE if is_wide else CONFIG)
        save(out / name / "values.safetensors", values)
    if "--bitsandbytes" in sys.argv:
        with_bitsandbytes(out)
        with_blocks(out, "bnb-nf4-128", "nf4", 128)


main()
