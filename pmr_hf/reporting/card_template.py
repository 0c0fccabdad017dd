"""The text of a model card and of its code sample, with named fields that `model_card.py` fills."""

from ..model.targets import MULTI_LABEL, REGRESSION, SINGLE_LABEL


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

![{plot_title} over training]({plot})

{how_to_read_the_ratio}
{evaluation}
## Training

| hyperparameter | value |
|---|---|
| training samples | {training_samples} |
{hyper_parameters}

## Limits

{limits}
Its accuracy on other kinds of data is unknown.
{modality_dropout}{missing}

## Citation

```bibtex
{citation}
```

{end}
"""

MISSING = "\nThe results do not show how accurate the model is when a modality is missing."

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
{printing}
```
"""

# The end of the code sample and the first sentence of the limits, by problem type
PRINTING = {
    SINGLE_LABEL: """print(model.config.id2label[output.logits.argmax(1).item()])
for name, logits in model.prototypes(output.embeddings).items():  # what each modality predicts alone
    print(name, model.config.id2label[logits.argmax(1).item()])""",
    MULTI_LABEL: """names = model.config.id2label
print([names[k] for k in (output.logits[0] > 0).nonzero()[:, 0].tolist()])  # probabilities above 0.5
for name, logits in model.prototypes(output.embeddings).items():  # what each modality predicts alone
    print(name, [names[k] for k in (logits[0] > 0).nonzero()[:, 0].tolist()])""",
    REGRESSION: """for k, value in enumerate(output.logits[0].tolist()):  # in the units of the training targets
    print(model.config.id2label[k], value)""",
}
LIMITS = {
    SINGLE_LABEL: "The model predicts only the classes that it was trained on.",
    MULTI_LABEL: "The model finds only the labels that it was trained on.",
    REGRESSION: "The model predicts numbers without a range in which they may lie.",
}
