"""The text of a model card and of its code sample, with named fields that `model_card.py` fills."""

CARD = """---
{metadata}
---

{begin}

# {model_name}

{what_it_does}

{description}.
{code_sample}
## Results

{results}

![Accuracy, imbalance ratio and weights over training]({plot})

{how_to_read_the_ratio}

## Training

| hyper-parameter | value |
|---|---|
| training samples | {training_samples} |
{hyper_parameters}

## Limits

It knows the classes above and no others, and its scores are not calibrated. The results hold for data like that of the
table. {modality_dropout}; how well it does without one is not in the table.

## Citation

```bibtex
{citation}
```

{end}
"""

CODE_SAMPLE = """
## Use

```python
{imports}from transformers import AutoModel, AutoProcessor

import pmr_hf  # where it is not installed, leave this out and load both with trust_remote_code=True

model = AutoModel.from_pretrained("{model_name}").eval()
processor = AutoProcessor.from_pretrained("{model_name}")
inputs = processor(
{values}
)  # a list of samples of each modality; None where a sample lacks one
with torch.no_grad():
    output = model(**inputs)
print(model.config.id2label[output.logits.argmax(1).item()])
for name, logits in model.prototypes(output.embeddings).items():  # what each modality says alone
    print(name, model.config.id2label[logits.argmax(1).item()])
```
"""
