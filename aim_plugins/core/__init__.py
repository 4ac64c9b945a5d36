"""What every room stands on: settings, files, strengths, identities, devices. Imports no torch."""
