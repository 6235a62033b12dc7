"""Shape checks are for tests: timed along, they would be what is measured."""

import jaxtyping

jaxtyping.config.update("jaxtyping_disable", True)
