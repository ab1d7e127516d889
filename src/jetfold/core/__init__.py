"""Pure mathematics without any framework: polynomials, jet algebras, directions, jets, towers."""
