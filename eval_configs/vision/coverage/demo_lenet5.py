"""Coverage of the demo's LeNet-5 by the test images of its data set."""

dataset = "demo:dataset"
data_root = "demo:data-root"
model = "lenet5"
weights = "demo:lenet5"

end2end = True
layer_by_layer = True
all_class = True
