"""tlearn fine-tunes a pretrained VGG16 with Ray Train and scores folders of images with Ray Data.

The way of one image, which is also the order to read the modules in:

1. `manifest`  lists it: path, size, time, class
2. `images`    decodes it and resizes it to 240x240, uint8
3. `network`   the frozen layers make features of it, once
4. `chunks`    64 such images are one task of an actor pool, one file, one atomic step
5. `features`  keeps the features, keyed by what the file holds
6. `loop`      trains the layers after the cut on them; `worker` runs it under Ray Train
7. `model`     the folder that training leaves
8. `scorer`    the same way again, up to a row in a Parquet file
"""
