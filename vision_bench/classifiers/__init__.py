"""A classifier and its labelled data, as every command that measures one takes them."""
