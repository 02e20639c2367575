"""Named settings to start from; any flag overrides them."""

from tlearn.config import HeadConfig, OptimConfig, PreprocessConfig, TrainConfig

RECIPES: dict[str, TrainConfig] = {
    # The Keras notebook as it is, with the two mistakes that hold it at 0.88: pixels that the weights were not
    # trained on, and no shuffling (--shuffle repairs the second).
    "notebook": TrainConfig(
        data="",
        output="",
        recipe="notebook",
        augment="none",
        shuffle=False,
        preprocess=PreprocessConfig(resize="squash", normalization="rescaled_bgr", jpeg_scaling=False),
        head=HeadConfig(kind="dense", scale_features=False),
        optim=OptimConfig(name="sgd", lr=1e-4, momentum=0.9, weight_decay=0.0, schedule="constant", num_epochs=5),
    ),
    # What serves best on a frozen base.
    "frozen": TrainConfig(data="", output="", recipe="frozen"),
    # The head first, then the last block with it, slowly, on fresh crops and larger (README has what each gives).
    "finetune": TrainConfig(
        data="",
        output="",
        recipe="finetune",
        frozen_blocks=4,
        augment="full",
        preprocess=PreprocessConfig(image_size=320, short_side=352),
        optim=OptimConfig(
            head_epochs=5,
            head_lr=1e-4,
            num_epochs=6,
            lr=4e-5,
            pretrained_lr=2e-5,
            warmup_epochs=0.5,
            ema_decay=0.99,
        ),
    ),
    # One of the four cases of transfer learning, by what can be measured (tlearn/auto.py).
    "auto": TrainConfig(data="", output="", recipe="auto"),
}
