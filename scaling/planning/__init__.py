"""Plans: what the compiler says of a run on hardware that is not here, and estimates from it.

topology -> compile -> hlo -> roofline, cost -> report        one plan
search                                                        many plans, the best that fits
"""
