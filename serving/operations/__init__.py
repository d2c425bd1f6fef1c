"""Running the server: settings, start and drain, hot swap, calibration. No HTTP forms and no scheduling in here."""
