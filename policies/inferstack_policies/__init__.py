"""Guard rails for LLM serving: pure rules over planned resources.

    violations = evaluate(resources, Context(production=True))     # resources from a plan, a policy pack or rendered YAML

Knows neither Pulumi nor the rest of the kit: everything from outside comes as a `Resource` or in the `Context`.
"""

from inferstack_policies.evaluation import Verdict, evaluate
from inferstack_policies.model import Context, Resource, Rule, Violation
from inferstack_policies.rules import RULES
from inferstack_policies.waivers import Waiver, waive

__all__ = ["RULES", "Context", "Resource", "Rule", "Verdict", "Violation", "Waiver", "evaluate", "waive"]
