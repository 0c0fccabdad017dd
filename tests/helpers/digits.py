"""The digits that most tests train on: the words of their captions, their classes, and batches of chosen rows."""

import torch


WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
NUM_LABELS = 4


def take_prototypes(model, processor, digits):
    """Set the prototypes of a model to the class means of its embeddings of the digits."""
    with torch.no_grad():
        embeddings = model(**processor(image=digits["picture"], text=digits["caption"])).embeddings
        sums = model.prototypes.class_sums(embeddings, torch.tensor(digits["label"]))
        model.prototypes.momentum_update(sums, 0.0)


def batch_of(trainer, rows):
    """The collated batch of these rows of the trainer's training set."""
    return trainer.data_collator([trainer.train_dataset[i] for i in rows])
