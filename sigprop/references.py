"""The only bibliography: a key stands in docstrings and records, the full citation stands here."""

REFERENCES: dict[str, str] = {
    "balduzzi2017": "D. Balduzzi et al., The Shattered Gradients Problem, ICML 2017 (looks-linear weights).",
    "cho2009": "Y. Cho and L. Saul, Kernel Methods for Deep Learning, NeurIPS 2009 (arc-cosine kernels).",
    "glorot2010": "X. Glorot and Y. Bengio, Understanding the Difficulty of Training Deep Feedforward "
    "Neural Networks, AISTATS 2010.",
    "hall1983": "P. Hall, Chi Squared Approximations to the Distribution of a Sum of Independent Random "
    "Variables, Annals of Probability 11, 1983 (three-cumulant chi-square approximation).",
    "hanin2018": "B. Hanin, Which Neural Net Architectures Give Rise to Exploding and Vanishing "
    "Gradients?, NeurIPS 2018.",
    "hanin2020": "B. Hanin and M. Nica, Products of Many Large Random Matrices and Gradients in Deep "
    "Neural Networks, Communications in Mathematical Physics 376, 2020.",
    "he2015": "K. He et al., Delving Deep into Rectifiers, ICCV 2015.",
    "mezzadri2007": "F. Mezzadri, How to Generate Random Matrices from the Classical Compact Groups, "
    "Notices of the AMS 54, 2007 (Haar measure by QR with the signs of R).",
    "poole2016": "B. Poole et al., Exponential Expressivity in Deep Neural Networks through Transient "
    "Chaos, NeurIPS 2016.",
    "saxe2014": "A. Saxe, J. McClelland and S. Ganguli, Exact Solutions to the Nonlinear Dynamics of "
    "Learning in Deep Linear Neural Networks, ICLR 2014.",
    "schoenholz2017": "S. Schoenholz et al., Deep Information Propagation, ICLR 2017.",
    "sidak1967": "Z. Šidák, Rectangular Confidence Regions for the Means of Multivariate Normal "
    "Distributions, Journal of the American Statistical Association 62, 1967.",
    "stouffer1949": "S. Stouffer et al., The American Soldier, vol. 1, Princeton 1949 (sum of z-scores).",
    "xiao2018": "L. Xiao et al., Dynamical Isometry and a Mean Field Theory of CNNs, ICML 2018 "
    "(delta-orthogonal convolutions).",
}
