"""Small vision models and data that are made here, once, for machines without a model hub.

Configs name them by a word in place of a path, and `vision-bench demo-models` prints the paths:

| word                 | stands for                                                              |
|----------------------|-------------------------------------------------------------------------|
| `demo:dataset`       | "fashion-mnist" where it is installed, else "digits"                    |
| `demo:data-root`     | where that lies, or None where it needs no root                         |
| `demo:resnet20`      | the weights of a ResNet-20 trained on it                                |
| `demo:lenet5`        | the weights of a LeNet-5 trained on it                                  |
| `demo:backdoored`    | the weights of a ResNet-20 trained on it with a backdoor planted        |
| `demo:scenes`        | a folder of made scenes with a class for every pixel                    |
| `demo:segformer`     | the folder of a small SegFormer trained on them                         |
| `demo:photographs`   | a folder of photographs from scikit-image and scikit-learn              |
| `demo:clip`          | the folder of a small CLIP trained on tinted garments and captions      |
| `demo:text-to-image` | the folder of a small Stable Diffusion trained on the same              |

What is not in the cache yet is made, within minutes on a CPU. All of it is in the formats of the
real things, so that it is read by the same code. The CLIP and the pipeline take ten minutes, and
need Fashion-MNIST.
"""
