"""The only bibliography: a key stands in docstrings and records, the full citation stands here."""

REFERENCES: dict[str, str] = {
    "balduzzi2017": "D. Balduzzi et al., The Shattered Gradients Problem, ICML 2017 (looks-linear weights).",
    "barron2017": "J. Barron, Continuously Differentiable Exponential Linear Units, arXiv:1704.07483, 2017 (CELU).",
    "barndorff1986": "O. Barndorff-Nielsen, Inference on Full or Partial Parameters Based on the "
    "Standardized Signed Log Likelihood Ratio, Biometrika 73, 1986 (r* = w + log(v/w)/w).",
    "berzins2023": "A. Berzins, Polyhedral Complex Extraction from ReLU Networks using Edge Subdivision, ICML 2023.",
    "brock2021": "A. Brock, S. De and S. Smith, Characterizing Signal Propagation to Close the Performance "
    "Gap in Unnormalized ResNets, ICLR 2021 (unit-variance gains).",
    "chandrupatla1997": "T. Chandrupatla, A New Hybrid Quadratic/Bisection Algorithm for Finding the Zero of "
    "a Nonlinear Function, Advances in Engineering Software 28, 1997.",
    "cho2009": "Y. Cho and L. Saul, Kernel Methods for Deep Learning, NeurIPS 2009 (arc-cosine kernels).",
    "clarke1983": "F. Clarke, Optimization and Nonsmooth Analysis, Wiley 1983 (generalized gradients).",
    "clevert2016": "D.-A. Clevert, T. Unterthiner and S. Hochreiter, Fast and Accurate Deep Network Learning by Exponential Linear Units, ICLR 2016.",
    "collobert2004": "R. Collobert, Large Scale Machine Learning, PhD thesis, Université Paris VI, 2004 (hard tanh).",
    "crofton": "M. Crofton, On the Theory of Local Probability, Philosophical Transactions 158, 1868 (the mean number of crossings of an arc by random great circles is its length over π); its use at finite width is derived in sigprop.regions.expected.",
    "de2020": "S. De and S. Smith, Batch Normalization Biases Residual Blocks Towards the Identity Function in Deep Networks, NeurIPS 2020 (SkipInit).",
    "dugas2001": "C. Dugas et al., Incorporating Second-Order Functional Knowledge for Better Option Pricing, NeurIPS 2000 (softplus).",
    "elfwing2018": "S. Elfwing, E. Uchibe and K. Doya, Sigmoid-Weighted Linear Units for Neural Network Function Approximation in Reinforcement Learning, Neural Networks 107, 2018.",
    "folds": "Zigzags of two-piece units of any slope on a line, and units of slope 0 among others: derived in sigprop.regions.bounds; no published source is known to us.",
    "farouki2012": "R. Farouki, The Bernstein Polynomial Basis: A Centennial Retrospective, Computer Aided Geometric "
    "Design 29, 2012.",
    "glorot2010": "X. Glorot and Y. Bengio, Understanding the Difficulty of Training Deep Feedforward "
    "Neural Networks, AISTATS 2010.",
    "goodfellow2013": "I. Goodfellow et al., Maxout Networks, ICML 2013.",
    "hall1983": "P. Hall, Chi Squared Approximations to the Distribution of a Sum of Independent Random "
    "Variables, Annals of Probability 11, 1983 (three-cumulant chi-square approximation).",
    "hanin2018": "B. Hanin, Which Neural Net Architectures Give Rise to Exploding and Vanishing "
    "Gradients?, NeurIPS 2018.",
    "hanin2019": "B. Hanin and D. Rolnick, Complexity of Linear Regions in Deep Networks, ICML 2019.",
    "hanin2020": "B. Hanin and M. Nica, Products of Many Large Random Matrices and Gradients in Deep "
    "Neural Networks, Communications in Mathematical Physics 376, 2020.",
    "hayou2019": "S. Hayou, A. Doucet and J. Rousseau, On the Impact of the Activation Function on Deep "
    "Neural Networks Training, ICML 2019.",
    "he2015": "K. He et al., Delving Deep into Rectifiers, ICCV 2015.",
    "he2016": "K. He et al., Identity Mappings in Deep Residual Networks, ECCV 2016.",
    "hendrycks2016": "D. Hendrycks and K. Gimpel, Gaussian Error Linear Units, arXiv:1606.08415, 2016.",
    "howard2019": "A. Howard et al., Searching for MobileNetV3, ICCV 2019 (hard swish).",
    "klambauer2017": "G. Klambauer et al., Self-Normalizing Neural Networks, NeurIPS 2017.",
    "krizhevsky2010": "A. Krizhevsky, Convolutional Deep Belief Networks on CIFAR-10, 2010 (ReLU capped at 6).",
    "lugannani1980": "R. Lugannani and S. Rice, Saddle Point Approximation for the Distribution of the "
    "Sum of Independent Random Variables, Advances in Applied Probability 12, 1980.",
    "maas2013": "A. Maas, A. Hannun and A. Ng, Rectifier Nonlinearities Improve Neural Network Acoustic Models, ICML 2013 workshop (leaky ReLU).",
    "mezzadri2007": "F. Mezzadri, How to Generate Random Matrices from the Classical Compact Groups, "
    "Notices of the AMS 54, 2007 (Haar measure by QR with the signs of R).",
    "misra2020": "D. Misra, Mish: A Self Regularized Non-Monotonic Activation Function, BMVC 2020.",
    "montufar2014": "G. Montúfar et al., On the Number of Linear Regions of Deep Neural Networks, NeurIPS 2014.",
    "montufar2017": "G. Montúfar, Notes on the Number of Linear Regions of Deep Neural Networks, SampTA 2017.",
    "nair2010": "V. Nair and G. Hinton, Rectified Linear Units Improve Restricted Boltzmann Machines, ICML 2010.",
    "phased": "PhasedReLU(α, β), leaky ReLU cut to zero below −β/α: defined in sigprop.nn.PhasedReLU; its integrals are derived there and in sigprop.closed_form, no published source is known to us.",
    "mishkin2016": "D. Mishkin and J. Matas, All You Need is a Good Init, ICLR 2016 (LSUV).",
    "poole2016": "B. Poole et al., Exponential Expressivity in Deep Neural Networks through Transient "
    "Chaos, NeurIPS 2016.",
    "radford2019": "A. Radford et al., Language Models are Unsupervised Multitask Learners, OpenAI 2019 (GPT-2).",
    "ramachandran2017": "P. Ramachandran, B. Zoph and Q. Le, Searching for Activation Functions, arXiv:1710.05941, 2017 (Swish).",
    "roberts2022": "D. Roberts, S. Yaida and B. Hanin, The Principles of Deep Learning Theory, Cambridge 2022.",
    "rumelhart1986": "D. Rumelhart, G. Hinton and R. Williams, Learning Representations by Back-propagating Errors, Nature 323, 1986 (sigmoid units).",
    "saxe2014": "A. Saxe, J. McClelland and S. Ganguli, Exact Solutions to the Nonlinear Dynamics of "
    "Learning in Deep Linear Neural Networks, ICLR 2014.",
    "schoenholz2017": "S. Schoenholz et al., Deep Information Propagation, ICLR 2017.",
    "serra2018": "T. Serra, C. Tjandraatmadja and S. Ramalingam, Bounding and Counting Linear Regions of Deep Neural Networks, ICML 2018.",
    "sidak1967": "Z. Šidák, Rectangular Confidence Regions for the Means of Multivariate Normal "
    "Distributions, Journal of the American Statistical Association 62, 1967.",
    "sitzmann2020": "V. Sitzmann et al., Implicit Neural Representations with Periodic Activation Functions, NeurIPS 2020.",
    "so2021": "D. So et al., Primer: Searching for Efficient Transformers for Language Modeling, NeurIPS 2021 (squared ReLU).",
    "stouffer1949": "S. Stouffer et al., The American Soldier, vol. 1, Princeton 1949 (sum of z-scores).",
    "tsuchida2021": "R. Tsuchida et al., Avoiding Kernel Fixed Points: Computing with ELU and GELU Infinite Networks, AAAI 2021.",
    "turian2009": "J. Turian, J. Bergstra and Y. Bengio, Quadratic Features and Deep Architectures for Chunking, NAACL 2009 (softsign).",
    "williams1997": "C. Williams, Computing with Infinite Networks, NeurIPS 1996 (kernel of erf units).",
    "xiao2018": "L. Xiao et al., Dynamical Isometry and a Mean Field Theory of CNNs, ICML 2018 "
    "(delta-orthogonal convolutions).",
    "xu2015": "B. Xu et al., Empirical Evaluation of Rectified Activations in Convolutional Network, arXiv:1505.00853, 2015 (RReLU).",
    "yang2019": "G. Yang et al., A Mean Field Theory of Batch Normalization, ICLR 2019.",
    "zaslavsky1975": "T. Zaslavsky, Facing up to Arrangements: Face-Count Formulas for Partitions of Space by Hyperplanes, Memoirs of the AMS 154, 1975.",
    "zhang2022": "G. Zhang, A. Botev and J. Martens, Deep Learning without Shortcuts: Shaping the Kernel with "
    "Tailored Rectifiers, ICLR 2022.",
    "zhang2019": "H. Zhang, Y. Dauphin and T. Ma, Fixup Initialization: Residual Learning Without Normalization, ICLR 2019.",
}
