"""The Slepian model based independent interval approximation of persistency and zero-level exceedance distributions."""
