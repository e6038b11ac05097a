"""The course as a web site that needs no network: chapters as they were recorded, library, results."""
