"""The tests of Headgate."""
