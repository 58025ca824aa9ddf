"""The public names of sigprop, each at its home; the one list: ``__init__.py`` reads it."""

from sigprop import checking as checking
from sigprop import init as init
from sigprop import kinks as kinks
from sigprop import measurement as measurement
from sigprop import monitoring as monitoring
from sigprop import nn as nn
from sigprop import plots as plots
from sigprop import prediction as prediction
from sigprop import references as references
from sigprop import regions as regions
from sigprop import sweep as sweep
from sigprop import theory as theory
from sigprop.activations import activation as activation
from sigprop.checking import check as check
from sigprop.init import init_slopes as init_slopes
from sigprop.init import initialize as initialize
from sigprop.init import kaiming_leaky_init as kaiming_leaky_init
from sigprop.measurement import measure as measure
from sigprop.monitoring import monitor as monitor
from sigprop.nn import DeepMLP as DeepMLP
from sigprop.prediction import predict as predict
from sigprop.slopes import constrain_slopes as constrain_slopes
from sigprop.slopes import param_groups as param_groups
from sigprop.slopes import project_slopes as project_slopes
from sigprop.theory.critical import critical_gain as critical_gain
from sigprop.theory.critical import edge_of_chaos as edge_of_chaos
from sigprop.theory.explain import explain_gain as explain_gain
from sigprop.theory.finite_width import finite_width_law as finite_width_law
from sigprop.theory.finite_width import sample_trajectories as sample_trajectories
from sigprop.theory.gains import gain as gain
from sigprop.theory.gains import tailored_slope as tailored_slope
from sigprop.theory.leaky import chi as chi
from sigprop.theory.leaky import correlation_map as correlation_map
from sigprop.theory.leaky import g_star as g_star
from sigprop.theory.leaky import trajectory as trajectory
from sigprop.theory.leaky import variance_map as variance_map
from sigprop.theory.mean_field import MeanField as MeanField
from sigprop.validation import validate as validate
from sigprop.validation import validate_many as validate_many

__version__: str
