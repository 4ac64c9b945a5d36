"""What a configuration of OpenCompass says about modulations, checked before anything runs."""
