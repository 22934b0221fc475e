"""Linear systems and products for batches: small dense ones, LAPACK, Krylov iterations, spectra."""
