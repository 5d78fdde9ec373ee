"""What "exact" means, criterion by criterion, and what the tests measured for each."""
