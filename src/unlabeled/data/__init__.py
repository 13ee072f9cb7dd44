"""Images: where they come from, how they are decoded, cropped, drawn and handed to the device."""
