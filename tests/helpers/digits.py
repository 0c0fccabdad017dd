"""The digits that most tests train on: the words of their captions, their classes, and batches of chosen rows."""

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
NUM_LABELS = 4


def batch_of(trainer, rows):
    """The collated batch of these rows of the trainer's training set."""
    return trainer.data_collator([trainer.train_dataset[i] for i in rows])
