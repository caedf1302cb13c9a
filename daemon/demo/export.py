# SPDX-License-Identifier: MIT
"""Writes a checkpoint as GGUF: matrices as Q8_0, the router and the norms as F32.

export.py CHECKPOINT TOKENIZER.json MODEL.gguf
"""
import json
import os
import sys

import gguf
import numpy as np
import torch

TEMPLATE = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] "
            "+ '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}"
            "{{ '<|im_start|>assistant\\n' }}{% endif %}")
LICENSE = 'MIT AND LicenseRef-WordNet-3.0'


def add_shape(w, s):
    w.add_name('moed-demo')
    w.add_type('model')
    w.add_license(LICENSE)
    w.add_description('a very small mixture of experts, trained with 1 to 8 experts per token')
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_block_count(s['layers'])
    w.add_context_length(s['context'])
    w.add_embedding_length(s['width'])
    w.add_vocab_size(s['vocab'])
    w.add_feed_forward_length(s['expert_width'] * s['experts_max'])
    w.add_head_count(s['heads'])
    w.add_head_count_kv(s['kv_heads'])
    w.add_key_length(s['head_dim'])
    w.add_value_length(s['head_dim'])
    w.add_layer_norm_rms_eps(s['eps'])
    w.add_rope_freq_base(s['rope_base'])
    w.add_expert_count(s['experts'])
    w.add_expert_used_count(s['experts_max'])
    w.add_expert_feed_forward_length(s['expert_width'])


def add_tokenizer(w, path):
    data = json.load(open(path, encoding='utf-8'))
    vocab = data['model']['vocab']
    special = {t['content'] for t in data['added_tokens']}
    text = sorted(vocab, key=vocab.get)
    w.add_tokenizer_model('gpt2')
    w.add_tokenizer_pre('qwen2')
    w.add_token_list(text)
    w.add_token_types([gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in text])
    w.add_token_merges([m if isinstance(m, str) else ' '.join(m) for m in data['model']['merges']])
    w.add_bos_token_id(vocab['<|endoftext|>'])
    w.add_eos_token_id(vocab['<|im_end|>'])
    w.add_pad_token_id(vocab['<|endoftext|>'])
    w.add_add_bos_token(False)
    w.add_chat_template(TEMPLATE)


def tensors(state):
    """(name, array) as GGUF has them; experts stored [expert, out, in]."""
    for name, value in state.items():
        if name.endswith('_exps'):
            value = value.transpose(1, 2)
        yield name + '.weight', np.ascontiguousarray(value.float().numpy())


def export(checkpoint, tokenizer, path):
    c = torch.load(checkpoint, weights_only=False)
    w = gguf.GGUFWriter(f'{path}.new', 'qwen3moe')
    add_shape(w, c['shape'])
    add_tokenizer(w, tokenizer)
    for name, value in tensors(c['model']):
        if value.ndim > 1 and 'gate_inp' not in name:
            kind = gguf.GGMLQuantizationType.Q8_0
            w.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
        else:
            w.add_tensor(name, value)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    os.replace(f'{path}.new', path)


if __name__ == '__main__':
    export(*sys.argv[1:])
