"""Linearizes a softmax LLaMA-family model: trains its attention into a Treeline form.

    python3 -m linearize --help

Stages, each resumable: `corpus` tokenises text, `transfer` fits each layer's attention to the
teacher's, `distill` trains the whole model on the teacher's predictions, `medusa` trains draft
heads, `export` writes a folder that Treeline loads.
"""
