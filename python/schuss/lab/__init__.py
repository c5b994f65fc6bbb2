"""What shows the package, and is no part of the library: experiments, figures, other libraries to compare with."""
