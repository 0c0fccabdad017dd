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

| hyperparameter | value |
|---|---|
| training samples | {training_samples} |
{hyper_parameters}

## Limits

The model predicts only the classes that it was trained on, and its probabilities are not calibrated.
Its accuracy on other kinds of data is unknown.
{modality_dropout}
The results do not show how accurate the model is when a modality is missing.

## Citation

```bibtex
{citation}
```

{end}
"""

CODE_SAMPLE = """
## Usage

```python
{imports}from transformers import AutoModel, AutoProcessor

{import_line}

model = AutoModel.from_pretrained("{model_name}").eval()
processor = AutoProcessor.from_pretrained("{model_name}")
inputs = processor(
{values}
)  # for each modality a list of samples, with None where a sample lacks the modality
with torch.no_grad():
    output = model(**inputs)
print(model.config.id2label[output.logits.argmax(1).item()])
for name, logits in model.prototypes(output.embeddings).items():  # what each modality predicts alone
    print(name, model.config.id2label[logits.argmax(1).item()])
```
"""
