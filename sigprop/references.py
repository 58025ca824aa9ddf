"""The only bibliography: a key stands in docstrings and records, the full citation stands here."""

from __future__ import annotations

import difflib
import inspect
import re
from dataclasses import dataclass
from typing import Any

_OF_KIND = {
    "inproceedings": "booktitle",
    "article": "journal",
    "book": "publisher",
    "phdthesis": "school",
    "misc": "howpublished",
}


@dataclass(frozen=True)
class Reference:
    """One cited work. Printed, it is one line of a bibliography.

    Attributes:
        authors: joined by " and ", the rest of many as "others"; "" for what is derived here.
        title: of the work.
        where: conference; journal and volume; publisher; school; "arXiv:" and its number.
        year: of publication.
        note: what is taken from it.
        kind: of BibTeX's entry types; "misc" for preprints, software, and what is derived here.
    """

    authors: str
    title: str
    where: str
    year: int
    note: str = ""
    kind: str = "inproceedings"

    def __str__(self) -> str:
        names = self.authors.split(" and ")
        if names[-1] == "others":
            said = f"{', '.join(names[:-1])} et al."
        else:
            said = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
        note = f" ({self.note})" if self.note else ""
        return f"{said}, {self.title}, {self.where}, {self.year}{note}."

    def bibtex(self, key: str) -> str:
        """The entry of a ``.bib`` file, in UTF-8."""
        fields = {"author": self.authors, "title": f"{{{self.title}}}"}
        journal = re.fullmatch(r"(.+) (\d+)", self.where)
        if self.where.startswith("arXiv:"):
            fields |= {"eprint": self.where.removeprefix("arXiv:"), "archiveprefix": "arXiv"}
        elif self.kind == "article" and journal:
            fields |= {"journal": journal[1], "volume": journal[2]}
        else:
            fields[_OF_KIND[self.kind]] = self.where
        fields |= {"year": str(self.year), "note": self.note}
        escaped = {name: re.sub(r"([&%#_])", r"\\\1", text) for name, text in fields.items()}
        lines = [f"  {name} = {{{text}}}," for name, text in escaped.items() if text]
        return "\n".join([f"@{self.kind}{{{key},", *lines, "}"])


OWN = "{The sigprop authors}"
R = Reference
REFERENCES: dict[str, Reference] = {
    "balduzzi2017": R("D. Balduzzi and others", "The Shattered Gradients Problem", "ICML", 2017, "looks-linear weights"),
    "barron2017": R("J. Barron", "Continuously Differentiable Exponential Linear Units", "arXiv:1704.07483", 2017, "CELU", "misc"),
    "barndorff1986": R("O. Barndorff-Nielsen", "Inference on Full or Partial Parameters Based on the Standardized Signed Log Likelihood Ratio", "Biometrika 73", 1986, "r* = w + log(v/w)/w", "article"),
    "berzins2023": R("A. Berzins", "Polyhedral Complex Extraction from ReLU Networks using Edge Subdivision", "ICML", 2023),
    "brock2021": R("A. Brock and S. De and S. Smith", "Characterizing Signal Propagation to Close the Performance Gap in Unnormalized ResNets", "ICLR", 2021, "unit-variance gains"),
    "chandrupatla1997": R("T. Chandrupatla", "A New Hybrid Quadratic/Bisection Algorithm for Finding the Zero of a Nonlinear Function", "Advances in Engineering Software 28", 1997, kind="article"),
    "chang2020": R("O. Chang, L. Flokas and H. Lipson", "Principled Weight Initialization for Hypernetworks", "ICLR", 2020),
    "cho2009": R("Y. Cho and L. Saul", "Kernel Methods for Deep Learning", "NeurIPS", 2009, "arc-cosine kernels"),
    "clarke1983": R("F. Clarke", "Optimization and Nonsmooth Analysis", "Wiley", 1983, "generalized gradients", "book"),
    "clevert2016": R("D.-A. Clevert and T. Unterthiner and S. Hochreiter", "Fast and Accurate Deep Network Learning by Exponential Linear Units", "ICLR", 2016, "ELU"),
    "collobert2004": R("R. Collobert", "Large Scale Machine Learning", "Université Paris VI", 2004, "PhD thesis; hard tanh", "phdthesis"),
    "crofton": R("M. Crofton", "On the Theory of Local Probability", "Philosophical Transactions 158", 1868, "the mean number of crossings of an arc by random great circles is its length over π; its use at finite width is derived in sigprop.regions.expected", "article"),
    "de2020": R("S. De and S. Smith", "Batch Normalization Biases Residual Blocks Towards the Identity Function in Deep Networks", "NeurIPS", 2020, "SkipInit"),
    "dugas2001": R("C. Dugas and others", "Incorporating Second-Order Functional Knowledge for Better Option Pricing", "NeurIPS 2000", 2001, "softplus"),
    "elfwing2018": R("S. Elfwing and E. Uchibe and K. Doya", "Sigmoid-Weighted Linear Units for Neural Network Function Approximation in Reinforcement Learning", "Neural Networks 107", 2018, kind="article"),
    "farouki2012": R("R. Farouki", "The Bernstein Polynomial Basis: A Centennial Retrospective", "Computer Aided Geometric Design 29", 2012, kind="article"),
    "folds": R(OWN, "Zigzags of two-piece units of any slope on a line, and units of slope 0 among others", "derived in sigprop.regions.bounds", 2026, "no published source is known to us", "misc"),
    "glorot2010": R("X. Glorot and Y. Bengio", "Understanding the Difficulty of Training Deep Feedforward Neural Networks", "AISTATS", 2010),
    "goodfellow2013": R("I. Goodfellow and others", "Maxout Networks", "ICML", 2013),
    "hall1983": R("P. Hall", "Chi Squared Approximations to the Distribution of a Sum of Independent Random Variables", "Annals of Probability 11", 1983, "three-cumulant chi-square approximation", "article"),
    "hanin2018": R("B. Hanin", "Which Neural Net Architectures Give Rise to Exploding and Vanishing Gradients?", "NeurIPS", 2018),
    "hanin2019": R("B. Hanin and D. Rolnick", "Complexity of Linear Regions in Deep Networks", "ICML", 2019),
    "hanin2020": R("B. Hanin and M. Nica", "Products of Many Large Random Matrices and Gradients in Deep Neural Networks", "Communications in Mathematical Physics 376", 2020, kind="article"),
    "hayou2019": R("S. Hayou and A. Doucet and J. Rousseau", "On the Impact of the Activation Function on Deep Neural Networks Training", "ICML", 2019),
    "he2015": R("K. He and others", "Delving Deep into Rectifiers", "ICCV", 2015),
    "he2016": R("K. He and others", "Identity Mappings in Deep Residual Networks", "ECCV", 2016),
    "hendrycks2016": R("D. Hendrycks and K. Gimpel", "Gaussian Error Linear Units", "arXiv:1606.08415", 2016, kind="misc"),
    "howard2019": R("A. Howard and others", "Searching for MobileNetV3", "ICCV", 2019, "hard swish"),
    "klambauer2017": R("G. Klambauer and others", "Self-Normalizing Neural Networks", "NeurIPS", 2017),
    "krizhevsky2010": R("A. Krizhevsky", "Convolutional Deep Belief Networks on CIFAR-10", "unpublished manuscript", 2010, "ReLU capped at 6", "misc"),
    "lugannani1980": R("R. Lugannani and S. Rice", "Saddle Point Approximation for the Distribution of the Sum of Independent Random Variables", "Advances in Applied Probability 12", 1980, kind="article"),
    "maas2013": R("A. Maas and A. Hannun and A. Ng", "Rectifier Nonlinearities Improve Neural Network Acoustic Models", "ICML workshop", 2013, "leaky ReLU"),
    "mestre2026": R("{Mestre} and others", "AnyInit", "Python package anyinit 0.4.0", 2026, kind="misc"),
    "mezzadri2007": R("F. Mezzadri", "How to Generate Random Matrices from the Classical Compact Groups", "Notices of the AMS 54", 2007, "Haar measure by QR with the signs of R", "article"),
    "mishkin2016": R("D. Mishkin and J. Matas", "All You Need is a Good Init", "ICLR", 2016, "LSUV"),
    "misra2020": R("D. Misra", "Mish: A Self Regularized Non-Monotonic Activation Function", "BMVC", 2020),
    "montufar2014": R("G. Montúfar and others", "On the Number of Linear Regions of Deep Neural Networks", "NeurIPS", 2014),
    "montufar2017": R("G. Montúfar", "Notes on the Number of Linear Regions of Deep Neural Networks", "SampTA", 2017),
    "nair2010": R("V. Nair and G. Hinton", "Rectified Linear Units Improve Restricted Boltzmann Machines", "ICML", 2010),
    "novak2020": R("R. Novak and others", "Neural Tangents: Fast and Easy Infinite Neural Networks in Python", "ICLR", 2020),
    "phased": R(OWN, "PhasedReLU(α, β), leaky ReLU cut to zero below −β/α", "defined in sigprop.nn.PhasedReLU, its integrals derived there and in sigprop.closed_form", 2026, "no published source is known to us", "misc"),
    "poole2016": R("B. Poole and others", "Exponential Expressivity in Deep Neural Networks through Transient Chaos", "NeurIPS", 2016),
    "radford2019": R("A. Radford and others", "Language Models are Unsupervised Multitask Learners", "OpenAI", 2019, "GPT-2", "misc"),
    "ramachandran2017": R("P. Ramachandran and B. Zoph and Q. Le", "Searching for Activation Functions", "arXiv:1710.05941", 2017, "Swish", "misc"),
    "roberts2022": R("D. Roberts and S. Yaida and B. Hanin", "The Principles of Deep Learning Theory", "Cambridge University Press", 2022, kind="book"),
    "rumelhart1986": R("D. Rumelhart and G. Hinton and R. Williams", "Learning Representations by Back-propagating Errors", "Nature 323", 1986, "sigmoid units", "article"),
    "saxe2014": R("A. Saxe and J. McClelland and S. Ganguli", "Exact Solutions to the Nonlinear Dynamics of Learning in Deep Linear Neural Networks", "ICLR", 2014),
    "schoenholz2017": R("S. Schoenholz and others", "Deep Information Propagation", "ICLR", 2017),
    "serra2018": R("T. Serra and C. Tjandraatmadja and S. Ramalingam", "Bounding and Counting Linear Regions of Deep Neural Networks", "ICML", 2018),
    "sidak1967": R("Z. Šidák", "Rectangular Confidence Regions for the Means of Multivariate Normal Distributions", "Journal of the American Statistical Association 62", 1967, kind="article"),
    "sigprop": R(OWN, "sigprop: signal-propagation theory, initialization and measurement for deep networks", "Python package", 2026, "this software", "misc"),
    "sitzmann2020": R("V. Sitzmann and others", "Implicit Neural Representations with Periodic Activation Functions", "NeurIPS", 2020),
    "so2021": R("D. So and others", "Primer: Searching for Efficient Transformers for Language Modeling", "NeurIPS", 2021, "squared ReLU"),
    "stouffer1949": R("S. Stouffer and others", "The American Soldier, vol. 1", "Princeton University Press", 1949, "sum of z-scores", "book"),
    "tsuchida2021": R("R. Tsuchida and others", "Avoiding Kernel Fixed Points: Computing with ELU and GELU Infinite Networks", "AAAI", 2021),
    "turian2009": R("J. Turian and J. Bergstra and Y. Bengio", "Quadratic Features and Deep Architectures for Chunking", "NAACL", 2009, "softsign"),
    "williams1997": R("C. Williams", "Computing with Infinite Networks", "NeurIPS 1996", 1997, "kernel of erf units"),
    "xiao2018": R("L. Xiao and others", "Dynamical Isometry and a Mean Field Theory of CNNs", "ICML", 2018, "delta-orthogonal convolutions"),
    "xu2015": R("B. Xu and others", "Empirical Evaluation of Rectified Activations in Convolutional Network", "arXiv:1505.00853", 2015, "RReLU", "misc"),
    "yang2019": R("G. Yang and others", "A Mean Field Theory of Batch Normalization", "ICLR", 2019),
    "zaslavsky1975": R("T. Zaslavsky", "Facing up to Arrangements: Face-Count Formulas for Partitions of Space by Hyperplanes", "Memoirs of the AMS 154", 1975, kind="article"),
    "zhang2019": R("H. Zhang and Y. Dauphin and T. Ma", "Fixup Initialization: Residual Learning Without Normalization", "ICLR", 2019),
    "zhang2022": R("G. Zhang and A. Botev and J. Martens", "Deep Learning without Shortcuts: Shaping the Kernel with Tailored Rectifiers", "ICLR", 2022),
}  # fmt: skip
"""Every work that is cited, by key: the first author and the year."""

_WORDS = "|".join(key for key in REFERENCES if not key[-1].isdigit())
_KEY = re.compile(rf"\b(?:[a-z]+(?:18|19|20)\d\d|{_WORDS})\b(?!\.?\w)")
_SOURCE = re.compile(r"^ *Source:(.*?)(?=^ *$|^ *[A-Z][a-z ]+:$|\Z)", re.MULTILINE | re.DOTALL)


def cited(text: str) -> list[str]:
    r"""The keys that the ``Source:`` of a docstring names, in order, known here or not.

    Example:
        >>> cited("The gain.\n\nSource: he2015 (forward); hanin2020.")
        ['he2015', 'hanin2020']
    """
    found = [key for part in _SOURCE.findall(text) for key in _KEY.findall(part)]
    return list(dict.fromkeys(found))


def bibtex(*works: Any) -> str:
    """BibTeX entries of cited works, each once.

    Args:
        works: keys of :data:`REFERENCES` (as they stand in docstrings), or what cites them: a
            function, class or module of this package, or the record of an activation. None given:
            all.

    Raises:
        ValueError: an unknown key, or something that cites nothing.

    Example:
        >>> print(bibtex("cho2009"))
        @inproceedings{cho2009,
          author = {Y. Cho and L. Saul},
          title = {{Kernel Methods for Deep Learning}},
          booktitle = {NeurIPS},
          year = {2009},
          note = {arc-cosine kernels},
        }
    """
    keys = [key for work in works for key in _keys(work)] if works else list(REFERENCES)
    return "\n\n".join(REFERENCES[key].bibtex(key) for key in dict.fromkeys(keys))


def _keys(work: Any) -> list[str]:
    if isinstance(work, str):
        if work not in REFERENCES:
            near = difflib.get_close_matches(work, REFERENCES, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"unknown work {work!r}; allowed: a key of sigprop.references.REFERENCES.{hint}"
            )
        return [work]
    source = getattr(work, "source", None)
    text = f"Source: {source}" if isinstance(source, str) else inspect.getdoc(work) or ""
    keys = cited(text)
    if not keys:
        raise ValueError(
            f"{getattr(work, '__name__', work)!r} cites no work; give a key of "
            "sigprop.references.REFERENCES, or a function whose docstring has a Source."
        )
    return keys
