"""JAX: jets on jaxprs."""
