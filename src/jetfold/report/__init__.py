"""What `jetfold report` writes: a page, a table and a file of numbers from measured results.

words         how things are called, and how numbers are written
quantities    what is measured of a cell, and when two cells differ by more than the noise
series        cells that belong together, and the lines fitted to them
losses        which rows we lose, and to whom
reasons       why a ratio is what it is
paper         the paper's table, with the published ratios
predictions   what `jf.explain` predicted
compare       two results, cell by cell
summary       three sentences
charts        plots, for plotly.js
figures       questions, plots and answers
tables        tables that can be sorted
page          all of it: HTML (page.html, or embedded.html for another site), CSV and JSON
"""
