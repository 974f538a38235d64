"""Images and what is made of them: data sets (`datasets`, `arrays`, `checksums`, `appearance`) and contexts."""
