"""Learners by pixel: features of a cube, trees and a linear part, as one network."""
